// The last minute of one figure as a line. A gap is a gap in what is known, not a zero.

const SVG = "http://www.w3.org/2000/svg";
const SAMPLES = 60;
const LEAST_PEAK = 1; // an idle line lies on the floor instead of dancing with noise
const MARGIN = 5;

export class Sparkline {
  #svg;
  #area = document.createElementNS(SVG, "path");
  #line = document.createElementNS(SVG, "path");
  #head = document.createElementNS(SVG, "circle");
  #samples = [];

  constructor(svg) {
    this.#svg = svg;
    this.#area.setAttribute("class", "area");
    this.#line.setAttribute("class", "line");
    this.#head.setAttribute("class", "head");
    this.#head.setAttribute("r", "3");
    svg.append(this.#area, this.#line, this.#head);
    new ResizeObserver(() => this.#draw()).observe(svg);
  }

  get peak() {
    return Math.max(0, ...this.#samples.filter((value) => value !== null));
  }

  /** Add a reading, null where there was none. */
  add(value) {
    this.#samples.push(value);
    if (this.#samples.length > SAMPLES) this.#samples.shift();
    this.#draw();
  }

  clear() {
    this.#samples = [];
    this.#draw();
  }

  #draw() {
    const { width, height } = this.#svg.getBoundingClientRect();
    if (width === 0) return;
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const floor = height - MARGIN;
    const top = Math.max(LEAST_PEAK, this.peak);
    const step = (width - 2 * MARGIN) / (SAMPLES - 1);
    const first = SAMPLES - this.#samples.length;
    const place = (value, index) => [
      (MARGIN + (first + index) * step).toFixed(1),
      (floor - (value / top) * (floor - MARGIN)).toFixed(1),
    ];
    const runs = this.#runs(place);
    this.#line.setAttribute("d", runs.map((run) => `M${run.join("L")}`).join(""));
    this.#area.setAttribute(
      "d",
      runs.map((run) => `M${run[0][0]},${floor}L${run.join("L")}L${run.at(-1)[0]},${floor}Z`).join(""),
    );
    const last = this.#samples.at(-1) ?? null;
    this.#head.toggleAttribute("hidden", last === null);
    if (last === null) return;
    const [x, y] = place(last, this.#samples.length - 1);
    this.#head.setAttribute("cx", x);
    this.#head.setAttribute("cy", y);
    this.#svg.setAttribute("aria-label", `Tokens per second: ${last.toFixed(1)} now, at most ${this.peak.toFixed(1)}`);
  }

  /** The readings as unbroken runs of points. */
  #runs(place) {
    const runs = [];
    let run = null;
    this.#samples.forEach((value, index) => {
      if (value === null) {
        run = null;
        return;
      }
      if (run === null) runs.push((run = []));
      run.push(place(value, index));
    });
    return runs;
  }
}
