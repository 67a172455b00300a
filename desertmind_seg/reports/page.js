'use strict';
const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/* Charts. Python says what to draw; the colours are those of the reader's colour scheme. */

function luminance(color) {
  const parts = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16) / 255);
  const [red, green, blue] = parts.map((v) => (v <= 0.04 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/* A class may be as dark or as light as the paper: its line moves towards the ink until it shows. */
function visible(color) {
  const mixed = (share) => '#' + [1, 3, 5].map((at) => {
    const [own, ink] = [color, style('--ink')].map((each) => parseInt(each.slice(at, at + 2), 16));
    return Math.round(own + share * (ink - own)).toString(16).padStart(2, '0');
  }).join('');
  const paper = luminance(style('--paper')) + 0.05;
  for (let share = 0; share < 1; share += 0.1) {
    const own = luminance(mixed(share)) + 0.05;
    if (Math.max(own / paper, paper / own) >= 2) return mixed(share);
  }
  return style('--ink');
}

function inScheme(part, key) {
  if (Array.isArray(part)) return part.map((each) => inScheme(each, key));
  if (part !== null && typeof part === 'object') {
    return Object.fromEntries(Object.entries(part).map(([name, each]) => [name, inScheme(each, name)]));
  }
  if (part === '--scale') return [[0, style('--paper')], [1, style('--strong')]];
  if (typeof part !== 'string') return part;
  if (part.startsWith('--')) return style(part);
  return key === 'color' && /^#[0-9a-f]{6}$/.test(part) ? visible(part) : part;
}

/* Breaks the names in a legend, and returns how many lines it will have. */
function fitLegend(data, width) {
  const most = Math.floor((width - 60) / 7);
  for (const trace of data) trace.name = broken(trace.name, most);
  const lines = data.flatMap((trace) => trace.name.split('<br>'));
  const longest = Math.max(...lines.map((each) => each.length));
  const columns = Math.max(1, Math.floor(width / (longest * 6.8 + 50)));
  return Math.ceil(lines.length / columns);
}

/* Breaks text into lines of so many letters: at spaces, after hyphens, and where it must. */
function broken(text, most) {
  const letters = (part) => part.match(/&\w+;|./gs) ?? []; /* &lt; is one */
  const lines = [''];
  for (const word of text.match(/[^\s-]*(-|\s+|$)/g)) {
    if (lines.at(-1) && letters((lines.at(-1) + word).trim()).length > most) lines.push('');
    lines[lines.length - 1] += word;
    for (let line = letters(lines.at(-1).trim()); line.length > most;) {
      lines.pop();
      lines.push(line.slice(0, most).join(''), line.slice(most).join(''));
      line = letters(lines.at(-1));
    }
  }
  return lines.map((each) => each.trim()).join('<br>');
}

/* Cuts text to so many letters; what it is pointed at says the whole of it. */
function shortened(text, most) {
  const letters = text.match(/&\w+;|./gs) ?? [];
  return letters.length > most ? `${letters.slice(0, most - 1).join('').trim()}…` : text;
}

/* Names of classes beside a matrix would leave no room for it on a phone; of many, some stand. */
function breakNames(trace, layout, width) {
  const sides = [[layout.xaxis, trace.x, 18, width / 12], [layout.yaxis, trace.y, 15, Infinity]];
  for (const [axis, names, letters, most] of sides) {
    if (!names.every((name) => typeof name === 'string')) continue;
    const every = Math.ceil(names.length / most);
    axis.tickmode = 'array';
    axis.tickvals = names.filter((_, number) => every < 2 || number % every === 0);
    axis.ticktext = axis.tickvals.map(
      (name) => (names.length > 20 ? shortened(name, letters) : broken(name, letters)));
    axis.tickfont = { size: 10 };
  }
  layout.xaxis.tickangle = -90;
}

async function draw(chart) {
  const state = `${chart.clientWidth} px, ${style('--paper')}`;
  if (chart.dataset.drawn === state) return;
  const { data, layout } = inScheme(JSON.parse(chart.querySelector('script').textContent));
  for (const note of layout.annotations ?? []) {
    note.text = broken(note.text, Math.floor((chart.clientWidth - 40) / 7));
  }
  if (chart.clientWidth < 560 && data[0].type === 'heatmap') {
    breakNames(data[0], layout, chart.clientWidth - 140);
  }
  const rows = layout.showlegend ? fitLegend(data, chart.clientWidth) : 0;
  const plain = { automargin: true, fixedrange: true, gridcolor: style('--line'),
    zerolinecolor: style('--line'), linecolor: style('--line') };
  for (const name of Object.keys(layout).filter((each) => /^[xy]axis/.test(each))) {
    const long = name.startsWith('x') ? chart.clientWidth - 60 : chart.dataset.height - 40;
    const text = broken(layout[name].title?.text ?? '', Math.floor(long / 7));
    const title = { standoff: 8, font: { color: style('--ink') }, text };
    layout[name] = { ...plain, ...layout[name], title };
  }
  const height = Number(chart.dataset.height) + 19 * rows + (rows ? 8 : 0);
  await Plotly.react(chart.querySelector('.drawing'), data, {
    width: chart.clientWidth, height, margin: { l: 12, r: 16, t: 10, b: 12 }, dragmode: false,
    paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', showlegend: false, bargap: 0.25,
    font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: style('--quiet') },
    hoverlabel: { bgcolor: style('--paper'), bordercolor: style('--line'),
      font: { color: style('--ink') }, namelength: -1 },
    legend: { orientation: 'h', x: 0, y: 1, yanchor: 'bottom', font: { color: style('--ink') },
      itemclick: 'toggle' },
    ...layout,
  }, { displayModeBar: false });
  chart.dataset.drawn = state;
}

async function drawAll() {
  await window.chartsLoaded;
  for (const chart of document.querySelectorAll('.chart')) {
    if (!chart.querySelector('.drawing')) {
      chart.append(Object.assign(document.createElement('div'), { className: 'drawing' }));
    }
    await draw(chart);
  }
}

if (window.chartsLoaded) {
  drawAll();
  let waiting = 0;
  let width = innerWidth;
  addEventListener('resize', () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(drawAll, 150);
  });
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', drawAll);
}

/* Pictures: under each of a row lies the camera's, and a slider moves them aside. */

for (const frame of document.querySelectorAll('.frame')) {
  const slider = frame.querySelector('.slider input');
  const [camera, ...others] = frame.querySelectorAll('.strip img');
  if (!slider) continue;
  for (const image of others) image.parentElement.style.backgroundImage = `url(${camera.src})`;
  slider.addEventListener('input', () => {
    frame.style.setProperty('--at', `${slider.value}%`);
  });
}

/* Touched, a picture fills the window: arrow keys lead to the next, Escape back. */

const pictures = [...document.querySelectorAll('.strip button')];
if (pictures.length) {
  const viewer = document.createElement('dialog');
  viewer.className = 'viewer';
  viewer.innerHTML = '<div class="stage"><div class="pair"><img class="under" alt="">' +
    '<img class="over" alt=""></div></div><p></p><nav><button type="button">Back</button>' +
    '<input type="range" min="0" max="100" aria-label="how much of the camera to show">' +
    '<button type="button">Next</button><button type="button">Close</button></nav>';
  document.body.append(viewer);
  const [pair, under, over, text, slider] = ['.pair', '.under', '.over', 'p', 'input'].map(
    (name) => viewer.querySelector(name));
  const [back, next, close] = viewer.querySelectorAll('button');
  let shown = 0;

  const slide = () => pair.style.setProperty('--at', `${slider.value}%`);
  const fit = () => {
    const { clientWidth, clientHeight } = viewer.querySelector('.stage');
    const scale = Math.min((clientWidth - 16) / over.naturalWidth,
      (clientHeight - 16) / over.naturalHeight);
    pair.style.width = `${over.naturalWidth * scale}px`;
    pair.style.height = `${over.naturalHeight * scale}px`;
  };
  const show = (number) => {
    shown = (number + pictures.length) % pictures.length;
    const image = pictures[shown].querySelector('img');
    const frame = image.closest('.frame');
    const camera = frame.querySelector('.strip img');
    over.src = image.src;
    over.alt = image.alt;
    under.src = camera.src;
    slider.style.visibility =
      camera === image || !frame.querySelector('.slider') ? 'hidden' : 'visible';
    slider.value = 0;
    slide();
    text.textContent = image.alt;
    over.decode().then(fit);
  };
  pictures.forEach((button, number) => button.addEventListener('click', () => {
    viewer.showModal();
    show(number);
  }));
  slider.addEventListener('input', slide);
  back.addEventListener('click', () => show(shown - 1));
  next.addEventListener('click', () => show(shown + 1));
  close.addEventListener('click', () => viewer.close());
  viewer.addEventListener('close', () => pictures[shown].focus());
  viewer.addEventListener('keydown', (event) => {
    if (event.target === slider) return;
    if (event.key === 'ArrowLeft') show(shown - 1);
    if (event.key === 'ArrowRight') show(shown + 1);
  });
  addEventListener('resize', () => { if (viewer.open) fit(); });
}
