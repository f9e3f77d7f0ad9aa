// Draws every chart in the colour scheme of the reader, and again when the scheme changes.
const data = JSON.parse(document.getElementById("charts").textContent);
const scheme = window.matchMedia("(prefers-color-scheme: dark)");
async function draw() {
  const name = scheme.matches ? "dark" : "light";
  for (const [id, spec] of Object.entries(data.specs)) {
    const place = document.getElementById("chart-" + id);
    await window.vegaEmbed(place, spec, {
      actions: false, ast: true, renderer: "svg", mode: "vega-lite",
      config: { ...data.config[name], legend: { ...data.config[name].legend, columns: place.clientWidth < 560 ? 3 : 8 } },
      tooltip: { theme: name },
    });
  }
  document.documentElement.dataset.drawn = name;
}
scheme.addEventListener("change", draw);
draw();
