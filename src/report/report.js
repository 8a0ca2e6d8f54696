for (const figure of document.querySelectorAll("figure[data-hover]")) {
  const { left, right, last_step, series } = JSON.parse(figure.dataset.hover);
  const svg = figure.querySelector("svg"), box = svg.viewBox.baseVal;
  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
  cursor.setAttribute("class", "cursor");
  svg.append(cursor);
  const all = [...new Set(series.flatMap((one) => one.steps))].sort((a, b) => a - b);
  let at = -1;
  const nearest = (steps, step) => {
    let low = 0, high = steps.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (steps[middle] < step) low = middle + 1; else high = middle;
    }
    return low > 0 && step - steps[low - 1] < steps[low] - step ? low - 1 : low;
  };
  const hide = () => { at = -1; tip.hidden = true; cursor.removeAttribute("d"); };
  const show = (place) => {
    at = Math.max(0, Math.min(all.length - 1, place));
    const step = all[at], share = left + (right - left) * step / last_step;
    tip.replaceChildren();
    const head = document.createElement("b");
    head.textContent = "step " + step;
    tip.append(head);
    for (const one of series) {
      const found = nearest(one.steps, step), line = document.createElement("div");
      const where = one.steps[found] === step ? "" : " (step " + one.steps[found] + ")";
      line.textContent = one.name + ": " + one.values[found] + where;
      tip.append(line);
    }
    tip.hidden = false;
    const width = svg.clientWidth, x = share * width;
    tip.style.left = Math.max(0, x > width / 2 ? x - tip.offsetWidth - 8 : x + 8) + "px";
    tip.style.top = svg.offsetTop + 4 + "px";
    cursor.setAttribute("d", "M" + share * box.width + " 10V" + (box.height - 34));
  };
  if (all.length === 0) continue;
  svg.addEventListener("pointermove", (event) => {
    const share = (event.clientX - svg.getBoundingClientRect().left) / svg.clientWidth;
    show(nearest(all, (share - left) / (right - left) * last_step));
  });
  svg.addEventListener("pointerleave", hide);
  svg.tabIndex = 0;
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1, Home: -all.length, End: all.length }[event.key];
    if (event.key === "Escape") hide();
    if (move === undefined) return;
    event.preventDefault();
    show((at < 0 ? all.length - 1 : at) + move);
  });
}
