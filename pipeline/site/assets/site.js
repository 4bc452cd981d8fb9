// Conveniences only: every page says all it has to say without this.
"use strict";
