// Draws every chart of the page from the JSON beside it. Text takes the page's colour, so light and dark both work.
(() => {
  "use strict";
  const ink = "currentColor";
  const phone = window.matchMedia("(max-width: 600px)").matches;
  const config = {
    background: null,
    font: "system-ui, sans-serif", // a family that a canvas knows too: label widths are measured there
    view: { stroke: null },
    axis: {
      labelColor: ink, titleColor: ink, tickColor: ink, domainColor: ink, gridColor: ink,
      gridOpacity: 0.12, domainOpacity: 0.4, tickOpacity: 0.4,
      titleFontWeight: 500, labelFontSize: 12, titleFontSize: 12, labelFlush: true,
    },
    axisY: { labelLimit: phone ? 190 : 260 },
    axisX: { labelOverlap: true, tickCount: 6 },
    legend: { labelColor: ink, titleColor: ink, orient: "top", columns: phone ? 1 : 4, labelFontSize: 12, labelLimit: 220, symbolStrokeWidth: 3 },
    mark: { color: "#0086d1" },
    line: { strokeWidth: 2 },
    point: { filled: true, size: 30 },
    bar: { cornerRadiusEnd: 2 },
  };
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, config };
  for (const drawing of document.querySelectorAll("[data-spec]")) {
    const spec = JSON.parse(document.getElementById(drawing.dataset.spec).textContent);
    window.vegaEmbed(drawing, spec, options).catch((error) => {
      console.error(error);
      drawing.textContent = "This chart could not be drawn: " + error.message;
    });
  }
  if (window.matchMedia("(max-width: 1080px)").matches) document.getElementById("contents").open = false;
})();
