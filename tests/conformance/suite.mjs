// A copy of the suite: where its parts are, its origin server, its client. Two layouts are known, that of the npm
// package and that of the repository since (which keeps server and client in `test-engine/`). Never decided here:
// whether a result is good enough (judge.mjs).
import fs from 'node:fs'
import path from 'node:path'
import process from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { Running, stdoutOf } from './processes.mjs'

const HERE = path.dirname(fileURLToPath(import.meta.url))
const CLIENT_MS = 300_000

/** What the suite prints for a test, as words. */
const WORDS = {
  '✅': 'pass',
  '⛔️': 'fails',
  '⚠️': 'fails',
  Y: 'yes',
  N: 'no',
  '🔹': 'setup failed',
  '⁉️': 'harness failed',
  '⚪️': 'what it depends on failed',
  '↻': 'was retried',
  '-': 'did not run'
}

/** The npm package, or the copy in `directory`; `scratch` is a directory that goes at the end. */
export async function openSuite (directory, scratch) {
  const root = directory ? stage(directory, scratch) : path.join(HERE, 'node_modules/http-cache-tests')
  const engine = ['test-engine', '.'].map(place => path.join(root, place))
    .find(place => fs.existsSync(path.join(place, 'server/server.mjs')))
  if (!engine) throw new Error(`${directory ?? root}: no copy of the suite`)
  const load = async (base, file) => import(pathToFileURL(path.join(base, file)))
  const suites = [...(await load(root, 'tests/index.mjs')).default]
  // The client of the package runs one suite that its list does not name.
  const surrogate = path.join(root, 'tests/surrogate-control.mjs')
  if (fs.existsSync(surrogate)) suites.push((await import(pathToFileURL(surrogate))).default)
  const results = fs.existsSync(path.join(engine, 'lib/results.mjs')) ? 'lib/results.mjs' : 'lib/display.mjs'
  const { determineTestResult } = await load(engine, results)
  return new Suite(root, engine, scratch, suites, determineTestResult)
}

class Suite {
  constructor (root, engine, scratch, suites, determineTestResult) {
    Object.assign(this, { root, engine, scratch, suites, determineTestResult })
  }

  /** Starts the origin on 127.0.0.1, on this port or (0) on a free one; returns it with its `url`. */
  async startOrigin (port) {
    const env = this.#environment({ protocol: 'http', port: String(port), pidfile: path.join(this.scratch, 'pid') })
    const preload = pathToFileURL(path.join(HERE, 'loopback.mjs')).href
    const args = ['--import', preload, path.join(this.engine, 'server/server.mjs')]
    const origin = new Running('the suite\'s origin', process.execPath, args, { cwd: this.root, env })
    origin.url = await origin.says(/Listening on (http:\/\/127\.0\.0\.1:\d+)/)
    return origin
  }

  /** Runs every test against the cache at `base`; returns them with what came out of each. */
  async run (base) {
    const env = this.#environment({ base, id: '' })
    const client = path.relative(this.root, path.join(this.engine, 'cli.mjs'))
    const args = ['--no-warnings', client]
    const written = await stdoutOf('the suite\'s client', process.execPath, args, { cwd: this.root, env }, CLIENT_MS)
    const results = JSON.parse(written.slice(written.search(/^\{$/m)))
    return this.suites.flatMap(suite => suite.tests
      .filter(test => test.browser_only !== true)
      .map(test => this.#outcome(suite, test, results)))
  }

  #outcome (suite, test, results) {
    const word = WORDS[this.determineTestResult(this.suites, test.id, results)[2]]
    if (word === undefined) throw new Error(`${test.id}: an outcome that is not known here`)
    return {
      suite: suite.id,
      id: test.id,
      kind: test.kind ?? 'required',
      passed: word === 'pass' || word === 'yes',
      why: [word, results[test.id]?.[1]].filter(Boolean).join(': ')
    }
  }

  // The suite reads what npm would hand to its scripts.
  #environment (config) {
    const named = Object.entries(config).map(([key, value]) => [`npm_package_config_${key}`, value])
    const own = Object.entries(process.env).filter(([key]) => !key.startsWith('npm_'))
    return Object.fromEntries([...own, ...named])
  }
}

// A copy in the scratch directory, beside the packages that are installed here: a checkout has none of its own.
function stage (directory, scratch) {
  const root = path.join(scratch, 'suite')
  const wanted = name => !['.git', 'node_modules', 'results'].includes(path.basename(name))
  fs.cpSync(path.resolve(directory), root, { recursive: true, filter: wanted })
  fs.symlinkSync(path.join(HERE, 'node_modules'), path.join(root, 'node_modules'))
  return root
}
