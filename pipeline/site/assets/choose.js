// Which variant a device runs: the same gates, evaluated as `pipeline/iree/gates.py` does, with the same words.
"use strict";

const choose = (() => {
  const unsigned = (value) => Number(BigInt.asUintN(32, BigInt(value)));

  const holds = ([, op, values], value) => (op === ">=" ? unsigned(value) >= values[0] : values.includes(unsigned(value)));

  const said = ([query, op, values]) => `${query} ${op} ${op === "in" ? `[${values.join(", ")}]` : values[0]}`;

  function refusal(gate, answers) {
    const query = gate[0];
    if (!Object.hasOwn(answers, query)) return `wants ${said(gate)}, but the device does not answer ${query}`;
    return holds(gate, answers[query]) ? "" : `wants ${said(gate)}, the device has ${unsigned(answers[query])}`;
  }

  // For each variant, in order: may the device run it, and why not.
  function decide(variants, device) {
    return variants.map(({ name, format, gates }) => {
      const reason = device.formats.includes(format)
        ? gates.map((gate) => refusal(gate, device.answers)).filter(Boolean).join("; ")
        : `needs the executable format ${format}, which the device does not take`;
      return { variant: name, accepted: !reason, reason: reason || "every gate holds" };
    });
  }

  const isSoftwareGpu = (device) => device.software && !KNOWN.cpuDrivers.includes(device.driver);

  // What each device does, the best first: the file's order of preference decides, but a software GPU comes last.
  function choices(variants, devices) {
    const place = new Map(variants.map(({ name }, index) => [name, index]));
    const found = devices.map((device) => {
      const decisions = decide(variants, device);
      const first = decisions.find(({ accepted }) => accepted);
      return { device, decisions, variant: first ? first.variant : null };
    });
    const rank = ({ device, variant }) => [variant === null, isSoftwareGpu(device), place.get(variant) ?? 0].map(Number);
    return found.sort((a, b) => {
      const [x, y] = [rank(a), rank(b)];
      return x[0] - y[0] || x[1] - y[1] || x[2] - y[2];
    });
  }

  function title({ uri, name, driver, driver_info: info }) {
    if (!info) return `CPU (${name})${uri && uri !== driver ? ` by ${uri}` : ""}`;
    return !name || info.startsWith(name.split(" (")[0]) ? info : `${name} (${info})`;
  }

  // The devices in a document of `vmfb devices --json`. Throws an Error that says what is wrong with it.
  function parse(document) {
    const no = (what) => new Error(`This is no file of device facts: ${what}. \`vmfb devices --json\` makes one.`);
    if (document === null || typeof document !== "object" || !Array.isArray(document.devices)) throw no("it lists no devices");
    if (document.schema !== KNOWN.schema) throw no(`it has schema ${document.schema}, this page reads ${KNOWN.schema}`);
    return document.devices.map((device) => {
      for (const key of ["name", "driver", "driver_info"])
        if (typeof device?.[key] !== "string") throw no(`a device has no ${key}`);
      const { uri = "", name, driver, driver_info, software, formats, answers } = device;
      if (!Array.isArray(formats) || typeof answers !== "object" || answers === null) throw no(`${name} says nothing of itself`);
      for (const [query, value] of Object.entries(answers))
        if (!Number.isSafeInteger(value)) throw no(`the answer to ${query} is no whole number`);
      return { uri, name, driver, driver_info, software: Boolean(software), formats, answers };
    });
  }

  // The devices of a machine that is known.
  function known(name) {
    return KNOWN.machines[name].map((index) => {
      const [title, driver, driver_info, software, formats, shape, values] = KNOWN.devices[index];
      const answers = Object.fromEntries(KNOWN.shapes[shape].map((query, i) => [query, values[i]]));
      return { uri: "", name: title, driver, driver_info, software, formats, answers };
    });
  }

  // The files of a page's question: what they are called, where they are told of, and their variants.
  function files({ gates, variants, files: listed }) {
    const whole = variants.map(([name, format, indices]) => ({ name, format, gates: indices.map((index) => gates[index]) }));
    return listed.map((file) => ({ ...file, variants: file.variants.map((index) => whole[index]) }));
  }

  return { decide, choices, title, parse, known, files };
})();

(() => {
  const make = (name, text = "", ...inner) => {
    const element = document.createElement(name);
    if (text) element.append(text);
    element.append(...inner);
    return element;
  };

  const count = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;

  function reasons(decisions, variant) {
    const list = make("ul");
    for (const decision of decisions) {
      const how = decision.variant === variant ? "runs: the first whose gates all hold" : decision.accepted ? "would do too" : decision.reason;
      const item = make("li", "", make("strong", decision.variant), ` ${how}`);
      list.append(item);
    }
    return make("details", "", make("summary", "Why"), list);
  }

  // One file: every device with its reasons.
  function inDetail(file, devices) {
    const found = choose.choices(file.variants, devices);
    return found.map(({ device, decisions, variant }, index) => {
      const best = index === 0 && variant !== null && found.length > 1 ? ", which vmfb takes by itself" : "";
      const head = make("p", "", make("strong", choose.title(device)), variant === null ? " refuses the file." : " runs ");
      if (variant !== null) head.append(make("code", variant), `${best}.`);
      return make("div", "", head, reasons(decisions, variant));
    });
  }

  // Many files: a row each. The CPU is what all machines have, and comes last.
  function inShort(files, held) {
    const isCpu = ({ driver }) => Number(KNOWN.cpuDrivers.includes(driver));
    const devices = [...held].sort((a, b) => isCpu(a) - isCpu(b));
    const head = make("tr", "", make("th", "File"), ...devices.map((device) => make("th", choose.title(device))));
    for (const cell of head.children) cell.scope = "col";
    const rows = files.map((file) => {
      const found = choose.choices(file.variants, devices);
      const link = make("a", file.title);
      link.href = file.link;
      const name = make("th", "", link);
      name.scope = "row";
      const cells = devices.map((device) => {
        const choice = found.find((one) => one.device === device);
        if (choice.variant === null) return make("td", "nothing");
        return make("td", "", make(choice === found[0] ? "strong" : "span", choice.variant));
      });
      return make("tr", "", name, ...cells);
    });
    const scroll = make("div", "", make("table", "", make("thead", "", head), make("tbody", "", ...rows)));
    scroll.className = "scroll";
    scroll.tabIndex = 0;
    scroll.setAttribute("role", "region");
    scroll.setAttribute("aria-label", "What this machine runs");
    return [scroll];
  }

  function connect(box) {
    const files = choose.files(JSON.parse(box.querySelector("script").textContent));
    const [select, input, answer] = ["select", "input", ".answer"].map((name) => box.querySelector(name));
    const isOne = files.length === 1 && !files[0].link;

    function show(name, devices) {
      const summary = make("p", `${name}: ${count(devices.length, "device")}`);
      summary.className = "quiet";
      answer.replaceChildren(summary, ...(isOne ? inDetail(files[0], devices) : inShort(files, devices)));
    }

    function read(file) {
      if (!file) return;
      file.text()
        .then((text) => show(file.name, choose.parse(parsed(text))))
        .catch((error) => answer.replaceChildren(make("p", error.message)));
    }

    function parsed(text) {
      try {
        return JSON.parse(text);
      } catch {
        throw new Error("This is no JSON. `vmfb devices --json` makes a file that is.");
      }
    }

    select.append(...Object.keys(KNOWN.machines).map((name) => new Option(name, name)));
    select.addEventListener("change", () => (select.value ? show(select.value, choose.known(select.value)) : answer.replaceChildren()));
    input.addEventListener("change", () => {
      select.value = "";
      read(input.files[0]);
      input.value = ""; // or the same file, changed, could not be chosen again
    });
    box.addEventListener("dragover", (event) => {
      event.preventDefault();
      box.classList.add("over");
    });
    box.addEventListener("dragleave", () => box.classList.remove("over"));
    box.addEventListener("drop", (event) => {
      event.preventDefault();
      box.classList.remove("over");
      select.value = "";
      read(event.dataTransfer.files[0]);
    });
    box.querySelector(".ask").hidden = false;
    for (const details of box.parentElement.querySelectorAll("details.known")) details.open = false;
  }

  document.querySelectorAll(".question").forEach(connect);
})();
