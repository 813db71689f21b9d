// Numbers as a person reads them: at most three or four figures, always with their unit.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const SIZES = ["B", "KiB", "MiB", "GiB", "TiB"];

export const count = (value) => (value < 100_000 ? whole.format(value) : compact.format(value));

/** 134515008 → "135M". */
export const short = (value) => compact.format(value);

export const rate = (value) => (value < 100 ? value.toFixed(1) : whole.format(value));

export const plural = (value, one) => `${count(value)} ${one}${value === 1 ? "" : "s"}`;

/** Bytes with a decimal where it tells something: "8.1 MiB", "92 MiB", "23.5 GiB". */
export function bytes(value) {
  let unit = 0;
  while (value >= 1000 && unit < SIZES.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const exact = unit > 0 && (value < 10 || (unit >= SIZES.indexOf("GiB") && value < 100));
  return `${exact ? value.toFixed(1) : whole.format(value)} ${SIZES[unit]}`;
}

/** Seconds of a request: "0.41 s", "12.3 s", "2 min 5 s". */
export function seconds(value) {
  if (value < 10) return `${value.toFixed(2)} s`;
  if (value < 60) return `${value.toFixed(1)} s`;
  return `${Math.floor(value / 60)} min ${Math.floor(value % 60)} s`;
}

/** How long the gateway has been up: two units, no more. */
export function uptime(value) {
  const minutes = Math.floor(value / 60);
  if (minutes < 1) return `${Math.floor(value)} s`;
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 24 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** Join what is known with the page's separator; null, undefined and "" are left out. */
export const facts = (...parts) => parts.filter((part) => part !== null && part !== undefined && part !== "").join(" · ");
