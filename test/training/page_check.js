/* What is wrong with a page as it is shown now: a list of sentences, empty for a good page. */
(async () => {
  const wrong = [];
  const say = (what, element) =>
    wrong.push(`${what}: <${element.tagName.toLowerCase()} class="${element.className}"> ` +
      `"${element.textContent.trim().replace(/\s+/g, ' ').slice(0, 60)}"`);
  const seen = (element) => element.checkVisibility() && element.getClientRects().length > 0 &&
    !element.closest('dialog, [popover]');
  const width = document.documentElement.clientWidth;

  /* Nothing is wider than the window. */
  if (document.documentElement.scrollWidth > width) {
    wrong.push(`the page is ${document.documentElement.scrollWidth} px wide, the window ${width}`);
  }
  for (const element of document.body.querySelectorAll('*')) {
    if (!seen(element) || element.closest('.wide, pre, svg, .drawing')) continue;
    const { left, right } = element.getBoundingClientRect();
    if (left < -1 || right > width + 1) say('reaches beyond the window', element);
  }
  /* Only tables of many columns scroll, and none of them where its rows became blocks. */
  for (const box of document.querySelectorAll('.wide')) {
    const narrow = box.closest('section').clientWidth <= 640;
    if (box.scrollWidth > box.clientWidth + 1 && (narrow || width >= 1400 || box.tabIndex < 0)) {
      say('scrolls', box);
    }
  }

  /* Every cell and every figure of the headline says something, all of it. */
  for (const cell of document.querySelectorAll('tbody td, tbody th, .card b, figcaption, h2, h3')) {
    if (!cell.textContent.trim() && !cell.querySelector('.bar')) say('is empty', cell);
    if (!seen(cell)) say('is not shown', cell);
    const clips = getComputedStyle(cell).overflowX !== 'visible';
    if (cell.scrollWidth > cell.clientWidth + 1 && (clips || cell.closest('td, th'))) {
      say('is clipped', cell);
    }
    if (cell.closest('.rows') && cell.closest('section').clientWidth <= 640) {
      const own = cell.getBoundingClientRect();
      const row = cell.parentElement.getBoundingClientRect();
      if (own.right > row.right + 1 || own.bottom > row.bottom + 1) say('leaves its row', cell);
    }
  }
  /* No word is broken: names of classes, of scores, figures. */
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = words.nextNode(); node; node = words.nextNode()) {
    const parent = node.parentElement;
    if (!parent.closest('th, td:not(.long), .card b, .legend, h2') || !seen(parent)) continue;
    if (parent.closest('.pairs td')) continue;
    for (const found of node.data.matchAll(/[\p{L}\d.,%+-]{2,16}/gu)) {
      const range = document.createRange();
      range.setStart(node, found.index);
      range.setEnd(node, found.index + found[0].length);
      const lines = new Set([...range.getClientRects()].map((each) => Math.round(each.top)));
      /* Hyphens may end a line. */
      if (lines.size > 1 && !/\w-\w/.test(found[0])) say(`breaks "${found[0]}"`, parent);
    }
  }

  /* Charts are drawn, with all of their text. */
  for (const chart of document.querySelectorAll('.chart')) {
    const svg = chart.querySelector('svg.main-svg');
    if (!chart.dataset.drawn || !svg) { say('is not drawn', chart); continue; }
    const marks = chart.querySelectorAll(
      '.trace path, .trace rect, .bars path, .points path, .lines path, .hm image, .errorbar');
    const big = [...marks].some((mark) => {
      const { width: across, height: up } = mark.getBoundingClientRect();
      return across > 1 || up > 1;
    });
    if (!big) say('shows nothing', chart);
    const frame = chart.getBoundingClientRect();
    if (Math.abs(svg.getBoundingClientRect().width - frame.width) > 1) {
      say('has another width than its place', chart);
    }
    for (const text of chart.querySelectorAll('svg text')) {
      const own = text.getBoundingClientRect();
      if (own.width && (own.left < frame.left - 2 || own.right > frame.right + 2 ||
          own.top < frame.top - 2 || own.bottom > frame.bottom + 2)) {
        say(`cuts off "${text.textContent}" (${Math.round(own.left - frame.left)} to ` +
          `${Math.round(own.right - frame.left)} of ${Math.round(frame.width)})`, chart);
      }
    }
  }

  /* Pictures are there and big enough to be seen; sliders have a picture to move. */
  for (const image of document.querySelectorAll('.strip img')) {
    await image.decode();
    if (image.getBoundingClientRect().width < 100) say('is a tiny picture', image.parentElement);
  }
  for (const slider of document.querySelectorAll('.slider input')) {
    if (slider.getBoundingClientRect().width < 80) say('is a tiny slider', slider);
  }

  /* Text can be read: 3 to 1 is the least for large text, ours is not below 4. */
  const channel = (v) => (v <= 10 ? v / 3295 : ((v / 255 + 0.055) / 1.055) ** 2.4);
  const light = (color) => {
    const [red, green, blue] = color.match(/[\d.]+/g).map(Number);
    return 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue) + 0.05;
  };
  for (const element of document.querySelectorAll('.card span, .card b, .note, td, th, h2, ' +
      'figcaption, .state, footer, .drawing .xtick text, .drawing .ytick text, .legendtext')) {
    if (!seen(element)) continue;
    const style = getComputedStyle(element);
    const ink = light(element instanceof SVGElement ? style.fill : style.color);
    const card = element.closest('.card, section') ?? document.body;
    const paper = light(getComputedStyle(card).backgroundColor);
    if (Math.max(ink / paper, paper / ink) < 4) say('can hardly be read', element);
  }
  return [...new Set(wrong)];
})()
