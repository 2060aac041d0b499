'use strict';
// The page as the server makes it, once a second; charts of what /metrics counts between two looks.
(() => {
  const EVERY = 1000, KEPT = 300, SHOWN = 60, PATIENCE = 5000;
  const KEYS = ['read', 'write', 'pinned'];
  const SVG = 'http://www.w3.org/2000/svg';
  const history = new Map(); // service → [{ at, rate: {class: n}, p99: {class: ms}, held }]
  let before = null;

  const fetched = async (path, accept) => {
    const answer = await fetch(path, { headers: { accept }, cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
    if (!answer.ok) throw new Error(answer.status);
    return answer.text();
  };

  // `name{label="value",…} number`; values are escaped as in the text format of Prometheus.
  const parse = (text) => {
    const counts = new Map(); // service → { class → { count, buckets: Map(le → n) }, waits }
    const of = (service) => counts.get(service) ?? counts.set(service, { classes: {}, held: false }).get(service);
    for (const line of text.split('\n')) {
      const found = /^pointsman_(command_duration_seconds_bucket|flowing)\{(.*)\} (\S+)$/.exec(line);
      if (!found) continue;
      const labels = {};
      for (const [, name, value] of found[2].matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
        labels[name] = value.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
      }
      const service = of(labels.service);
      if (found[1] === 'flowing') {
        if (labels.traffic === 'writes') service.held = found[3] === '0';
      } else {
        (service.classes[labels.class] ??= new Map()).set(Number(labels.le.replace('+Inf', 'Infinity')), Number(found[3]));
      }
    }
    return counts;
  };

  const quantile = (now, then, q) => {
    const steps = [...now].map(([le, n]) => [le, n - (then?.get(le) ?? 0)]).sort((a, b) => a[0] - b[0]);
    const all = steps.at(-1)?.[1] ?? 0;
    if (!(all > 0)) return null;
    let low = 0, below = 0;
    for (const [le, n] of steps) {
      if (n >= q * all) return le === Infinity ? low : low + (le - low) * (q * all - below) / Math.max(n - below, 1);
      [low, below] = [le, n];
    }
    return low;
  };

  const note = (counts) => {
    const at = performance.now();
    for (const [name, now] of counts) {
      const then = before?.counts.get(name);
      if (!then) continue;
      const seconds = (at - before.at) / 1000, point = { at, held: now.held, rate: {}, p99: {} };
      for (const key of KEYS) {
        const all = (c) => c.classes[key]?.get(Infinity) ?? 0;
        point.rate[key] = Math.max(0, all(now) - all(then)) / seconds;
        const worst = now.classes[key] && quantile(now.classes[key], then.classes[key], 0.99);
        point.p99[key] = worst === null || worst === undefined ? null : worst * 1000;
      }
      const points = history.get(name) ?? history.set(name, []).get(name);
      points.push(point);
      if (points.length > KEPT) points.shift();
    }
    before = { at, counts };
  };

  const make = (tag, attributes, ...children) => {
    const element = document.createElementNS(tag === 'figure' || tag === 'figcaption' || tag === 'span' ?
      'http://www.w3.org/1999/xhtml' : SVG, tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  const short = (n) => (n >= 1e6 ? (n / 1e6).toFixed(1) + 'M' : n >= 1e4 ? (n / 1e3).toFixed(0) + 'k' :
    n >= 100 ? n.toFixed(0) : n >= 1 ? n.toFixed(1) : n.toFixed(2));

  const chart = (title, unit, points, pick) => {
    const top = Math.max(1e-9, ...points.flatMap((p) => KEYS.map((k) => pick(p)[k] ?? 0)));
    const span = Math.max(SHOWN, points.length);
    const x = (i) => (i + span - points.length) / (span - 1) * 300;
    const svg = make('svg', { viewBox: '0 0 300 100', preserveAspectRatio: 'none', role: 'img', 'aria-label': title });
    points.forEach((p, i) => {
      if (p.held) svg.append(make('rect', { class: 'held', x: x(i) - 150 / span, y: 0, width: 300 / span, height: 100 }));
    });
    const caption = make('figcaption', {}, `${title}, highest ${short(top)} ${unit}: `);
    for (const key of KEYS) {
      let path = '', drawing = false;
      points.forEach((p, i) => {
        const value = pick(p)[key];
        if (value === null || value === undefined) { drawing = false; return; }
        path += `${drawing ? 'L' : 'M'}${x(i).toFixed(1)} ${(98 - value / top * 94).toFixed(1)}`;
        drawing = true;
      });
      if (path) svg.append(make('path', { class: `key-${key}`, d: path }));
      const last = pick(points.at(-1))[key];
      caption.append(make('span', { class: `key key-${key}` }, `${key} ${last === null ? '-' : short(last)} `));
    }
    return make('figure', { class: 'chart' }, caption, svg);
  };

  const draw = () => {
    for (const section of document.querySelectorAll('main > section')) {
      const points = history.get(section.dataset.service);
      if (!points?.length) continue;
      section.querySelector('.charts').replaceChildren(
        chart('Commands a second', '/s', points, (p) => p.rate),
        chart('Latency, 99th percentile', 'ms', points, (p) => p.p99));
    }
  };

  const put = (text) => {
    const page = new DOMParser().parseFromString(text, 'text/html');
    document.title = page.title;
    document.querySelector('#process').replaceChildren(...page.querySelector('#process').childNodes);
    const main = document.querySelector('main'), old = new Map();
    for (const section of main.children) old.set(section.dataset.service, section);
    const sections = [...page.querySelectorAll('main > section')].map((fresh) => {
      const there = old.get(fresh.dataset.service);
      if (!there) return document.adoptNode(fresh);
      for (const part of ['.state', '.records']) {
        const next = fresh.querySelector(part);
        // What somebody has opened stays open.
        for (const open of there.querySelectorAll(`${part} details[open]`)) {
          next.querySelector(`details[data-number="${open.dataset.number}"]`)?.setAttribute('open', '');
        }
        if (there.querySelector(part).innerHTML !== next.innerHTML) there.querySelector(part).replaceWith(document.adoptNode(next));
      }
      return there;
    });
    if (sections.some((s, i) => main.children[i] !== s) || main.children.length !== sections.length) {
      main.replaceChildren(...sections);
    }
  };

  const look = async () => {
    const stale = document.querySelector('#stale');
    try {
      const [page, metrics] = await Promise.all([fetched('./', 'text/html'), fetched('metrics', 'text/plain')]);
      put(page);
      note(parse(metrics));
      draw();
      stale.hidden = true;
    } catch {
      if (stale.hidden) stale.querySelector('time').textContent = new Date().toLocaleTimeString();
      stale.hidden = false;
    }
    // A page that nobody looks at asks seldom.
    setTimeout(look, document.hidden ? 10 * EVERY : EVERY);
  };
  setTimeout(look, EVERY);
})();
