// Opens the demo dashboard in headless Chromium and holds what it shows against what the widget APIs say.
//
//     node dashboard.mjs URL [--screenshot FILE] [--phone FILE] [--dark]
//
// Prints one JSON object and exits 0, or says on stderr what was not so and exits 1. Waits for conditions
// only; each has PATIENCE_MS. CHROMIUM names another browser than /usr/bin/chromium.

import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';

const PATIENCE_MS = 20_000;
const DESKTOP = { width: 1200, height: 900 };
const PHONE = { width: 400, height: 860 };

const { values: options, positionals } = parseArgs({
  allowPositionals: true,
  options: { screenshot: { type: 'string' }, phone: { type: 'string' }, dark: { type: 'boolean' } },
});
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';

/** Runs in the page: null once it shows what the APIs say, else what differs. */
async function differences() {
  const { token } = JSON.parse(document.getElementById('start').textContent);
  const ask = async (path) => {
    const response = await fetch(path, { headers: { Authorization: `Bearer ${token}` }, cache: 'no-cache' });
    if (!response.ok) throw new Error(`${path} answered ${response.status}`);
    return response.json();
  };
  const [kpi, chart, recent] = await Promise.all([
    ask('/api/widgets/kpi'), ask('/api/widgets/chart?hours=24'), ask('/api/widgets/recent'),
  ]);
  const found = [];
  const same = (what, shown, said) => {
    if (JSON.stringify(shown) !== JSON.stringify(said)) found.push(`${what}: shows ${JSON.stringify(shown)}, the API says ${JSON.stringify(said)}`);
  };
  // An empty text would be NaN: nothing passes for a zero that is not one.
  const number = (text) => Number.parseInt(text.replace(/[^0-9]/g, ''), 10);
  const value = (id) => number(document.getElementById(id).textContent);
  same('orders', value('kpi-orders'), kpi.orders_today);
  same('revenue', value('kpi-revenue'), kpi.revenue_today);
  same('active users', value('kpi-active'), kpi.active_users);

  const bars = [...document.querySelectorAll('#chart-svg .bar')];
  same('bars', bars.map((b) => [b.dataset.t, Number(b.dataset.orders), Number(b.dataset.revenue)]),
    chart.points.map((p) => [p.t, p.orders, p.revenue]));
  // What is drawn, not only what is noted: heights in proportion to the orders.
  const most = Math.max(1, ...chart.points.map((p) => p.orders));
  const tallest = Math.max(...bars.map((b) => b.getBoundingClientRect().height), 1);
  const crooked = bars.filter((bar, i) => {
    const expected = (tallest * (chart.points[i]?.orders ?? 0)) / most;
    return Math.abs(bar.getBoundingClientRect().height - expected) > 1;
  });
  same('bars out of proportion', crooked.length, 0);
  const drawn = [...document.querySelectorAll('#chart-svg .curve-line')].reduce((sum, line) => sum + line.getTotalLength(), 0);
  same('a revenue line', drawn > 0, true);

  const rows = [...document.querySelectorAll('#recent-body tr')].map((row) =>
    [number(row.cells[0].textContent), row.cells[1].firstChild.textContent, number(row.cells[3].textContent)]);
  same('rows', rows, recent.map((row) => [row.id, row.user, row.amount]));
  return found.length ? found : { kpi, bars: bars.length, rows: rows.length, newest: recent[0]?.id ?? null };
}

/** Asks until the page and the APIs agree; what they agree on. */
async function agreement(page, also = () => null) {
  const deadline = Date.now() + PATIENCE_MS;
  let last = ['nothing was asked'];
  while (Date.now() < deadline) {
    last = await page.evaluate(differences);
    if (!Array.isArray(last)) {
      const missing = also(last);
      if (!missing) return last;
      last = [missing];
    }
    // Until the page shows something else: by a poll or by the stream.
    await page.evaluate(() => new Promise((done) => {
      const seen = new MutationObserver(() => { seen.disconnect(); done(); });
      seen.observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
      setTimeout(done, 250);
    }));
  }
  throw new Error(`the page does not show what the APIs say:\n${last.join('\n')}`);
}

const day = (state) => state.kpi.as_of.slice(0, 10);

/** Clicks "new order" and waits until the page counts it. At midnight the count begins anew: once more then. */
async function order(page) {
  for (;;) {
    const before = await agreement(page);
    const [answer] = await Promise.all([
      page.waitForResponse((r) => r.request().method() === 'POST' && r.url().endsWith('/orders'), { timeout: PATIENCE_MS }),
      page.click('#new-order'),
    ]);
    if (answer.status() !== 201) throw new Error(`POST /orders answered ${answer.status()}`);
    const { id, amount } = await answer.json();
    const after = await agreement(page, (now) => {
      if (day(now) !== day(before)) return null;
      const [rose, wanted] = [now.kpi.orders_today - before.kpi.orders_today, now.kpi.revenue_today - before.kpi.revenue_today];
      if (now.newest !== id) return `the newest row is #${now.newest}, the order was #${id}`;
      return rose === 1 && wanted === amount ? null : `the orders rose by ${rose}, the revenue by ${wanted}, one order of ${amount} was placed`;
    });
    if (day(after) === day(before)) return { before, after, id, amount };
  }
}

async function picture(page, size, path) {
  await page.setViewportSize(size);
  // The chart is drawn anew for the new width before anything is looked at.
  await page.waitForFunction(() => {
    const [plot, bars] = [document.getElementById('plot').getBoundingClientRect(), document.querySelectorAll('#chart-svg .bar')];
    const last = bars[bars.length - 1].getBoundingClientRect();
    return last.right <= plot.right && last.right > plot.right - 80;
  }, undefined, { timeout: PATIENCE_MS });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) throw new Error(`the page is ${wide} px wider than a screen of ${size.width} px`);
  if (path) await page.screenshot({ path, fullPage: size === PHONE });
}

async function run(url) {
  const browser = await chromium.launch({
    executablePath,
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
  try {
    const page = await browser.newPage({ viewport: DESKTOP, colorScheme: options.dark ? 'dark' : 'light' });
    page.setDefaultTimeout(PATIENCE_MS);
    const complaints = [];
    page.on('pageerror', (error) => complaints.push(`script: ${error.message}`));
    page.on('console', (message) => message.type() === 'error' && complaints.push(`console: ${message.text()}`));
    const host = new URL(url).host;
    page.on('request', (request) => {
      const target = new URL(request.url());
      if (target.protocol !== 'data:' && target.host !== host) complaints.push(`foreign request: ${target.href}`);
    });
    const answer = await page.goto(url, { waitUntil: 'load' });
    if (answer.status() !== 200) throw new Error(`${url} answered ${answer.status()}`);

    const { before, after, id } = await order(page);
    const badges = await page.evaluate(() => Object.fromEntries(
      ['kpi', 'chart', 'recent'].map((widget) => [widget, document.getElementById(`${widget}-badge`).innerText.replaceAll('\n', ' ')])));
    await picture(page, DESKTOP, options.screenshot);
    await picture(page, PHONE, options.phone);
    if (complaints.length) throw new Error(complaints.join('\n'));
    return { ok: true, url, before: before.kpi, after: after.kpi, order: id, bars: after.bars, rows: after.rows, badges, browser: browser.version() };
  } finally {
    await browser.close();
  }
}

try {
  if (positionals.length !== 1) throw new Error('usage: node dashboard.mjs URL [--screenshot FILE] [--phone FILE] [--dark]');
  if (!existsSync(executablePath)) throw new Error(`no Chromium at ${executablePath}: apt-get install -y chromium, or set CHROMIUM`);
  console.log(JSON.stringify(await run(positionals[0])));
} catch (error) {
  console.error(`dashboard: ${error.message}`);
  process.exitCode = 1;
}
