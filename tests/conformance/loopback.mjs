// Preloaded into the suite's origin server (`node --import`), which listens on every interface when left alone:
// whatever listens on a port listens on 127.0.0.1.
import { Server } from 'node:net'

const { listen } = Server.prototype
Server.prototype.listen = function (port, ...rest) {
  return listen.call(this, { host: '127.0.0.1', port: Number(port) }, ...rest)
}
