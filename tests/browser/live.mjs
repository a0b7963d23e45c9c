// Opens the demo dashboard in three tabs of headless Chromium, places an order in one, and holds that it reaches
// the other tab of the tenant by the stream, and no tab of another tenant.
//
//     node live.mjs URL
//
// Prints one JSON object and exits 0, or says on stderr what was not so and exits 1.

import { chromium } from 'playwright-core';

const PATIENCE_MS = 20_000;
const [url] = process.argv.slice(2);

const live = (page) => page.waitForFunction(() => document.getElementById('live').dataset.state === 'open', undefined, { timeout: PATIENCE_MS });
const newest = (page) => page.evaluate(() => Number(document.querySelector('#recent-body tr')?.dataset.id ?? 0));

async function run() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking'],
  });
  try {
    const context = await browser.newContext();
    const open = async (tenant) => {
      const page = await context.newPage();
      await page.goto(`${url}/?tenant=${tenant}&user=alice`, { waitUntil: 'load' });
      await live(page);
      return page;
    };
    const [first, second, other] = [await open('acme'), await open('acme'), await open('globex')];
    const before = await newest(other);
    const asked = [];
    for (const page of [first, second]) page.on('request', (request) => request.url().includes('/api/widgets/') && asked.push(request.url()));
    const began = Date.now();
    const [answer] = await Promise.all([
      first.waitForResponse((r) => r.request().method() === 'POST' && r.url().endsWith('/orders')),
      first.click('#new-order'),
    ]);
    const { id } = await answer.json();
    const shown = (page) => page.waitForFunction((id) => document.querySelector(`#recent-body tr[data-id="${id}"]`), id, { timeout: PATIENCE_MS });
    await Promise.all([shown(first), shown(second)]);
    const ms = Date.now() - began;
    if (asked.length) throw new Error(`a page polled: ${asked.join(', ')}`);
    const after = await newest(other);
    if (after === id && before !== id) throw new Error('the order is shown to another tenant');
    return { ok: true, order: id, ms };
  } finally {
    await browser.close();
  }
}

try {
  console.log(JSON.stringify(await run()));
} catch (error) {
  console.error(`live: ${error.message}`);
  process.exitCode = 1;
}
