// Asks an API from pages of two other origins in headless Chromium, and prints what the scripts could read.
//
//     node cors.mjs ALLOWED-PAGE REFUSED-PAGE API
//
// Prints one JSON object: for each page, what came of each request (a status, or "refused" where the browser kept the
// answer from the script), and what the console said. CHROMIUM names another browser than /usr/bin/chromium.

import { chromium } from 'playwright-core';

const [allowed, refused, api] = process.argv.slice(2);

/** Runs in the page. */
async function ask(api) {
  const requests = {
    simple: [api, {}],
    again: [api, {}],
    credentials: [api, { credentials: 'include' }],
    authorized: [api, { headers: { Authorization: 'Basic YTpi' } }],
    put: [api, { method: 'PUT', body: '1' }],
    remove: [api, { method: 'DELETE' }],
    field: [api, { headers: { 'X-Unknown': '1' } }],
    missing: [`${new URL(api).origin}/closed`, {}],
  };
  const outcome = {};
  for (const [name, [url, options]] of Object.entries(requests)) {
    try {
      const response = await fetch(url, { cache: 'no-store', ...options });
      outcome[name] = { status: response.status, exposed: response.headers.get('X-Exposed'), hidden: response.headers.get('X-Hidden') };
    } catch {
      outcome[name] = 'refused';
    }
  }
  return outcome;
}

const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', args: ['--no-sandbox'] });
try {
  const outcome = {};
  for (const [name, url] of Object.entries({ allowed, refused })) {
    const page = await browser.newPage();
    const said = [];
    page.on('console', (message) => said.push(message.text()));
    await page.goto(url);
    outcome[name] = { read: await page.evaluate(ask, api), said };
    await page.close();
  }
  console.log(JSON.stringify(outcome));
} catch (error) {
  console.error(error.stack ?? String(error));
  process.exitCode = 1;
} finally {
  await browser.close();
}
