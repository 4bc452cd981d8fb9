"""All knowledge of IREE: toolchain, target attributes, gates, IR surgery, the vmfb file format, devices."""
