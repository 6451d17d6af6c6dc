/* The grid of all assets: shown from the data in window.mdtbenchAssets, filtered and sorted in place. */
(() => {
  "use strict";
  const { mdtbenchAssets: assets, mdtbenchSettings: settings } = window;
  const control = (name) => document.getElementById(`asset-${name}`);
  const chosen = (name) => Number(control(name)?.value ?? -1);

  function element(tag, className, text) {
    const made = document.createElement(tag);
    made.className = className;
    if (text !== undefined) made.textContent = text; // never as HTML: names may contain any character
    return made;
  }

  function cardOf(asset, index) {
    const item = element("li", "asset-item");
    const link = element("a", "asset-link");
    link.href = asset.page;
    if (asset.picture) {
      const picture = element("img", "");
      Object.assign(picture, { loading: "lazy", decoding: "async", width: 160, height: 160, alt: "" });
      picture.src = asset.picture;
      link.append(picture);
    } else {
      link.append(element("span", "asset-blank", asset.blank));
    }
    const value = element("span", "asset-value");
    link.append(element("span", "asset-title", asset.id), value);
    if (asset.failed) {
      const mark = element("span", "asset-failure", "failed");
      mark.title = asset.failed;
      link.append(mark);
    }
    item.append(link);
    return { asset, index, item, value, text: asset.id.toLowerCase(), number: null };
  }

  const list = control("list");
  const cards = assets.map(cardOf);

  function showValues() {
    const metric = chosen("metric"), method = chosen("method");
    for (const card of cards) {
      card.number = card.asset.values[method]?.[metric] ?? null;
      card.value.textContent = metric < 0 ? "" : card.number === null ? "–" : String(card.number);
    }
  }

  function sorted() {
    const order = control("order").value;
    if (order === "name") return [...cards].sort((a, b) => (a.asset.id < b.asset.id ? -1 : 1));
    if (order === "") return cards;
    const higher = settings.metrics[chosen("metric")].higher !== false;
    const sign = higher === (order === "best") ? -1 : 1;
    const rank = (card) => (card.number === null ? Infinity : sign * card.number); // without a value: last
    return [...cards].sort((a, b) => (rank(a) === rank(b) ? a.index - b.index : rank(a) < rank(b) ? -1 : 1));
  }

  function filter() {
    const text = control("filter").value.trim().toLowerCase(), failedOnly = control("failed").checked;
    let count = 0;
    for (const card of cards) {
      const fits = card.text.includes(text) && (!failedOnly || card.asset.failed !== "");
      card.item.hidden = !fits;
      count += fits;
    }
    const all = `${cards.length} asset${cards.length === 1 ? "" : "s"}`;
    control("count").textContent = count === cards.length ? all : `${count} of ${all}`;
  }

  function arrange() {
    showValues();
    list.replaceChildren(...sorted().map((card) => card.item));
    filter();
  }

  for (const name of ["metric", "method", "order"]) control(name)?.addEventListener("change", arrange);
  control("filter").addEventListener("input", filter);
  control("failed").addEventListener("change", filter);
  arrange();
})();
