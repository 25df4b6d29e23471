// Shows, at the pointer, the nearest point of every line of a chart.
"use strict";
const tip = document.getElementById("tip");
for (const svg of document.querySelectorAll(".chart > svg")) {
  const lines = [...svg.querySelectorAll("polyline")].map((line) => ({
    name: line.dataset.name,
    labels: line.dataset.labels.split("|"),
    xs: [...line.points].map((point) => point.x),
  }));
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    tip.textContent = lines
      .map((line) => {
        let nearest = 0;
        line.xs.forEach((place, index) => {
          if (Math.abs(place - x) < Math.abs(line.xs[nearest] - x)) nearest = index;
        });
        return `${line.name}  ${line.labels[nearest]}`;
      })
      .join("\n");
    tip.hidden = false;
    const left = Math.min(event.clientX + 16, innerWidth - tip.offsetWidth - 8);
    tip.style.left = `${left}px`;
    tip.style.top = `${event.clientY + 16}px`;
  });
  svg.addEventListener("pointerleave", () => (tip.hidden = true));
}
