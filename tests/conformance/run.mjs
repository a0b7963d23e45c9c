// The HTTP caching conformance suite (cache-tests.fyi) against a gateway: starts the suite's origin, tidegate before
// it and the suite's client before that, prints the table, and holds the outcome to exceptions.json. `make
// conformance` calls this.
//
//     run.mjs --tidegate PROGRAM [--suite DIRECTORY]
//     run.mjs --peer URL --origin-port PORT [--suite DIRECTORY]
//
// --suite runs another copy of the suite than the npm package. --peer measures another cache, one that is already
// running and has 127.0.0.1:PORT as its origin: it prints the table, each failure, and judges nothing.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { counted, faults, sums, table } from './judge.mjs'
import { Running } from './processes.mjs'
import { openSuite } from './suite.mjs'

const HERE = path.dirname(fileURLToPath(import.meta.url))

async function main () {
  const { values: options } = parseArgs({
    options: Object.fromEntries(['tidegate', 'suite', 'peer', 'origin-port'].map(name => [name, { type: 'string' }]))
  })
  if (!options.tidegate === !options.peer || !options.peer !== !options['origin-port']) {
    throw new Error('wanted: --tidegate PROGRAM, or --peer URL with --origin-port PORT')
  }
  const section = options.suite ? 'repository' : 'package'
  const expected = JSON.parse(fs.readFileSync(path.join(HERE, 'exceptions.json'), 'utf8'))[section]
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), 'tidegate-conformance-'))
  process.on('exit', () => fs.rmSync(scratch, { recursive: true }))
  const outcomes = await outcomesOf(options, scratch)
  console.log(`${table(outcomes, expected.not_counted)}\n`)
  return options.peer ? describe(outcomes, expected) : judge(outcomes, expected, section)
}

async function outcomesOf (options, scratch) {
  const suite = await openSuite(options.suite, scratch)
  const started = []
  try {
    const origin = await suite.startOrigin(options['origin-port'] ?? 0)
    started.push(origin)
    if (options.peer) return await suite.run(options.peer)
    const gateway = await startTidegate(options.tidegate, origin.url, scratch)
    started.push(gateway)
    return await suite.run(gateway.url)
  } finally {
    await Promise.all(started.map(running => running.stop()))
  }
}

async function startTidegate (program, origin, scratch) {
  const file = path.join(scratch, 'tidegate.toml')
  fs.writeFileSync(file, fs.readFileSync(path.join(HERE, 'tidegate.toml'), 'utf8').replace('@ORIGIN@', origin))
  const env = { ...process.env, NO_COLOR: '1' }
  const gateway = new Running('tidegate', program, ['run', '--config', file], { env })
  gateway.url = `http://${await gateway.says(/listening.*address=(127\.0\.0\.1:\d+)/)}`
  return gateway
}

function describe (outcomes, expected) {
  for (const { kind, id, passed, why } of counted(outcomes, expected.not_counted)) {
    if (!passed && kind !== 'check') console.log(`${kind} ${id} ${why}`)
  }
  return 0
}

function judge (outcomes, expected, section) {
  const { required, optimal } = sums(counted(outcomes, expected.not_counted))
  const passes = `${required.passed} of ${required.of} required and ${optimal.passed} of ${optimal.of} optimal tests`
  const found = faults(outcomes, expected)
  found.forEach(fault => console.log(fault))
  console.log(found.length === 0
    ? `${passes} pass; each of the others has its reason in tests/conformance/exceptions.json`
    : `${passes} pass; ${found.length} of the outcomes are not what tests/conformance/exceptions.json (${section}) says`)
  return found.length === 0 ? 0 : 1
}

main().catch(error => {
  console.error(`conformance: ${error.message}`)
  return 1
}).then(code => process.exit(code))
