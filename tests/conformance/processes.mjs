// Child processes: started with their output collected, waited for by what they say, killed at our end whatever
// that end is. Never decided here: what is run.
import { spawn } from 'node:child_process'
import process from 'node:process'

const KEPT_CHARACTERS = 20_000
const START_MS = 20_000

const children = new Set()

process.on('exit', () => children.forEach(child => child.kill('SIGKILL')))
for (const [signal, code] of [['SIGINT', 130], ['SIGTERM', 143], ['SIGHUP', 129]]) {
  process.on(signal, () => process.exit(code))
}

/** A running program; `ended` becomes its exit code, or the signal's name. */
export class Running {
  constructor (name, command, args, options = {}) {
    this.name = name
    this.output = ''
    this.child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], ...options })
    children.add(this.child)
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.setEncoding('utf8')
      stream.on('data', text => { this.output = (this.output + text).slice(-KEPT_CHARACTERS) })
    }
    this.ended = new Promise(resolve => {
      this.child.on('error', error => resolve(error.message))
      this.child.on('close', (code, signal) => resolve(code ?? signal))
    }).finally(() => children.delete(this.child))
  }

  /** The first group of `pattern`, once the output has it. */
  async says (pattern) {
    const found = () => this.output.match(pattern)?.[1]
    const heard = new Promise(resolve => {
      const look = () => { if (found() !== undefined) resolve(found()) }
      this.child.stdout.on('data', look)
      this.child.stderr.on('data', look)
      look()
    })
    const failed = this.ended.then(how => { throw new Error(`${this.name} ended (${how}):\n${this.output}`) })
    return within(START_MS, `${this.name} says nothing like ${pattern}`, Promise.race([heard, failed]))
  }

  /** Asks it to end, kills it where it doesn't, and returns when it is gone. */
  async stop () {
    this.child.kill('SIGTERM')
    const late = setTimeout(() => this.child.kill('SIGKILL'), 5_000)
    await this.ended
    clearTimeout(late)
  }
}

/** Runs a program to its end and returns what it wrote to stdout; any exit code but 0 is an error. */
export async function stdoutOf (name, command, args, options, deadlineMs) {
  const running = new Running(name, command, args, options)
  let written = ''
  running.child.stdout.on('data', text => { written += text })
  const how = await within(deadlineMs, `${name} has not ended`, running.ended)
  if (how !== 0) throw new Error(`${name} ended (${how}):\n${running.output}`)
  return written
}

/** `promise`, or an error after `ms` milliseconds. */
async function within (ms, what, promise) {
  let timer
  const late = new Promise((resolve, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} within ${ms / 1000} s`)), ms)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}
