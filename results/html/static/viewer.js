/* An asset's page: meshes that are loaded when they come into view and turn together; keys for the next asset. */
(() => {
  "use strict";
  // The camera of the pictures: yaw 60, pitch 25, radius 2, field of view 40 degrees, aimed at the origin.
  const ORBIT = "120deg 65deg 2m";
  const SETTINGS = {
    "camera-controls": "",
    "camera-orbit": ORBIT,
    "camera-target": "0m 0m 0m",
    "field-of-view": "40deg",
    "min-field-of-view": "40deg",
    "max-field-of-view": "40deg",
    "min-camera-orbit": "-Infinity 0deg 0.6m",
    "max-camera-orbit": "Infinity 180deg 10m", // otherwise the radius is clamped to the size of the mesh
    "tone-mapping": "none", // colours as they are, without light or shadow
    "shadow-intensity": "0",
    "interaction-prompt": "none",
    "touch-action": "pan-y",
    "disable-pan": "",
    "disable-tap": "",
    loading: "eager",
  };
  const figures = [...document.querySelectorAll("figure[data-model]")];
  const viewers = new Map(); // viewer to the orbit that it was last given
  let orbit = ORBIT;

  function loadScript(url) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = url;
      script.onload = () => resolve(script.remove());
      script.onerror = () => reject(new Error(`${url} is missing`));
      document.head.append(script);
    });
  }

  const spelled = ({ theta, phi, radius }) => `${theta.toFixed(5)}rad ${phi.toFixed(5)}rad ${radius.toFixed(5)}m`;

  function give(viewer) {
    viewers.set(viewer, orbit);
    viewer.cameraOrbit = orbit;
    viewer.jumpCameraToGoal();
  }

  function follow(leader) {
    const now = spelled(leader.getCameraOrbit());
    if (now === orbit || now === viewers.get(leader)) return; // the echo of what it was given
    orbit = now;
    viewers.set(leader, now);
    for (const viewer of viewers.keys()) if (viewer !== leader) give(viewer);
  }

  async function show(figure) {
    const { model, root } = figure.dataset;
    await loadScript(root + model);
    const viewer = document.createElement("model-viewer");
    for (const [name, value] of Object.entries(SETTINGS)) viewer.setAttribute(name, value);
    viewer.setAttribute("camera-orbit", orbit);
    const label = figure.querySelector("strong").textContent;
    viewer.setAttribute("alt", `${label}, a mesh that can be turned`);
    const bar = document.createElement("div");
    bar.slot = "progress-bar"; // in the place of the default one
    viewer.append(bar);
    const picture = figure.querySelector("img");
    if (picture) {
      picture.slot = "poster"; // stays until the mesh is there
      viewer.append(picture);
    }
    figure.querySelector(".asset-stage").replaceChildren(viewer);
    // Every viewer has a region of the same name: screen readers could not tell them apart.
    viewer.shadowRoot?.querySelector("[role=region]")?.setAttribute("aria-label", `Announcements of ${label}`);
    const loaded = new Promise((resolve, reject) => {
      viewer.addEventListener("load", resolve, { once: true });
      viewer.addEventListener("error", () => reject(new Error(`${model} cannot be shown`)), { once: true });
    });
    viewer.src = window.mdtbenchModels[model];
    delete window.mdtbenchModels[model];
    await loaded;
    figure.dataset.loaded = "";
    give(viewer);
    viewer.addEventListener("camera-change", () => follow(viewer));
  }

  let queue = Promise.resolve(); // one after the other, so that the page stays usable
  function enqueue(figure) {
    if ("queued" in figure.dataset) return;
    figure.dataset.queued = "";
    observer.unobserve(figure);
    queue = queue.then(() => show(figure)).catch((error) => {
      document.getElementById("viewer-state").textContent = error.message;
    });
  }

  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) enqueue(entry.target);
  });

  function start() {
    if (!document.createElement("canvas").getContext("webgl2")) {
      document.getElementById("viewer-state").textContent = "This browser has no WebGL: pictures only.";
      return;
    }
    for (const figure of figures) observer.observe(figure);
    document.getElementById("load-all").addEventListener("click", () => figures.forEach(enqueue));
    document.getElementById("reset-view").addEventListener("click", () => {
      orbit = ORBIT;
      for (const viewer of viewers.keys()) give(viewer);
    });
    document.getElementById("light-stage").addEventListener("change", (event) => {
      document.body.classList.toggle("light-stage", event.target.checked);
    });
  }

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest("model-viewer, input, select, textarea, .scroll")) return;
    const rel = { j: "next", ArrowRight: "next", k: "prev", ArrowLeft: "prev" }[event.key];
    if (rel) document.querySelector(`a[rel=${rel}]`)?.click();
  });
  if (figures.length) customElements.whenDefined("model-viewer").then(start);
})();
