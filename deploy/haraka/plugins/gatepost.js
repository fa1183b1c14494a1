// Mail over HTTP, from gatepost alone: a route for injection that believes the identity in X-Http-Auth.
//
// POST /inject, Content-Type: message/rfc822, the message as its body, the envelope in the headers X-Envelope-From and
// X-Envelope-To: what gatepost's `message_format: rfc822` reads, by the same rules. The message goes into Haraka's outbound queue. Who sent
// it is in `transaction.notes.http_auth`, so that every plugin behind this one, and `hmail.todo.notes.http_auth` at delivery, can tell.
//
// Whoever reaches this port can say who they are. It therefore listens on loopback or on a Unix socket, and nowhere else.
//
// What two readers could read in two ways is refused, not repaired: here, a header that hides behind it would be one that
// `message_header` does not replace.

const http = require('node:http');
const fs = require('node:fs');
const { TextDecoder } = require('node:util');
const { Address } = require('@haraka/email-address');
const { endpoint } = require('haraka-net-utils');
const outbound = require('./outbound');
const { createTransaction } = require('./transaction');

const LOOPBACK = /^(127\.\d+\.\d+\.\d+|::1)$/;

// An answer that says no.
class Refusal extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

exports.register = function () {
  const { main } = this.config.get('gatepost.ini');
  const number = (name, otherwise) => {
    const value = Number(main[name] ?? otherwise);
    if (!Number.isSafeInteger(value) || value < 1) throw new Error(`gatepost.ini: ${name} is no number`);
    return value;
  };
  this.settings = {
    listen: main.listen ?? '127.0.0.1:8025',
    identity_header: (main.identity_header ?? 'X-Http-Auth').toLowerCase(),
    message_header: main.message_header,
    max_bytes: number('max_bytes', 25 * 1024 * 1024),
    max_memory: number('max_memory', 128 * 1024 * 1024),
    max_recipients: number('max_recipients', 1000),
  };
  if (this.settings.message_header !== undefined && !/^[!-9;-~]+$/.test(this.settings.message_header)) {
    throw new Error('gatepost.ini: message_header is no name of a header');
  }
  this.place = endpoint(this.settings.listen);
  if (this.place instanceof Error) throw this.place;
  if (!this.place.path && !LOOPBACK.test(this.place.host)) {
    throw new Error(`gatepost.ini: listen has to be on loopback or a Unix socket, not ${this.settings.listen}`);
  }
  this.register_hook('init_master', 'listen');
  this.register_hook('init_child', 'listen');
  if (this.settings.message_header) this.register_hook('data_post', 'unforged', -100);
};

// With `nodes` in smtp.ini the workers listen, on a socket that they share.
exports.listen = function (next, server) {
  const { path, mode, host, port } = this.place;
  const master = !server.cluster || server.cluster.isMaster;
  if (master && path) fs.rmSync(path, { force: true });
  if (server.cluster?.isMaster) return next();
  this.held = 0;
  this.http = http.createServer(
    // gatepost gives up idle connections after 30 s (`upstream.idle_timeout`); who closes first must be the one who asks.
    { keepAliveTimeout: 75 * 1000, maxHeaderSize: 64 * 1024 },
    (request, response) => this.answer(request, response),
  );
  this.http.on('error', (fault) => {
    this.logerror(fault.message);
    if (!this.http.listening) next(DENY, `gatepost: ${fault.message}`);
  });
  this.http.listen(path ? { path } : { host, port }, () => {
    if (path && mode) fs.chmodSync(path, parseInt(mode, 8));
    this.lognotice(`listening on ${this.place}`);
    next();
  });
};

exports.shutdown = function () {
  this.http?.close();
};

exports.answer = async function (request, response) {
  const say = (status, content, more) => {
    const body = `${JSON.stringify(content)}\n`;
    response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body), ...more });
    response.end(body);
  };
  request.held = 0;
  try {
    say(200, { id: await this.inject(request) });
  } catch (fault) {
    if (request.socket.destroyed) return; // Nobody is there any more to be told.
    const refused = fault instanceof Refusal;
    if (!refused) this.logerror(`injection failed: ${fault.stack ?? fault}`);
    // Where there is more of the body, it is not worth reading.
    const more = request.complete ? {} : { Connection: 'close' };
    say(refused ? fault.status : 500, { error: refused ? fault.message : 'internal error' }, more);
  } finally {
    this.held -= request.held;
  }
};

// Gives the id of the message once it is on disk.
exports.inject = async function (request) {
  if (request.url !== '/inject') throw new Refusal(404, 'there is only /inject');
  if (request.method !== 'POST') throw new Refusal(405, 'there is only POST');
  const identity = this.identity(request);
  const { sender, recipients } = this.envelope(request);
  if (!/^message\/rfc822\s*(;\s*charset="?utf-8"?\s*)?$/i.test(request.headers['content-type'] ?? '')) {
    throw new Refusal(415, 'the Content-Type has to be message/rfc822');
  }
  if (request.headers['content-encoding'] !== undefined) throw new Refusal(415, 'there must be no Content-Encoding');
  const lines = lines_of(await this.body(request));

  const config = this.config.get('connection.ini');
  check_header(lines, config.headers?.max_lines || 1000);
  const transaction = createTransaction(null, config);
  transaction.notes.http_auth = identity;
  transaction.mail_from = sender;
  transaction.rcpt_to = recipients;
  for (const line of lines) {
    // Haraka keeps messages as they go over the wire, with the dots stuffed.
    transaction.add_data(Buffer.from(`${line.startsWith('.') ? '.' : ''}${line}\r\n`, 'latin1'));
  }
  await new Promise((done) => transaction.end_data(done));
  this.mark(transaction);
  const [code, text] = await new Promise((done) => {
    outbound.send_trans_email(transaction, (...answer) => done(answer));
  });
  transaction.message_stream.destroy();
  if (code !== OK) {
    this.logerror(`not queued: ${text}`);
    throw new Refusal(503, 'the message could not be queued');
  }
  this.loginfo(`queued ${transaction.uuid} http_auth=${JSON.stringify(identity)} rcpts=${recipients.length}`);
  return transaction.uuid;
};

exports.identity = function (request) {
  const values = request.headersDistinct[this.settings.identity_header] ?? [];
  if (values.length > 1) throw new Refusal(400, 'there is more than one identity');
  const identity = utf8(values[0] ?? '', 'the identity');
  if (identity === '') throw new Refusal(403, 'nobody says who sends this');
  return identity;
};

exports.envelope = function (request) {
  const from = request.headersDistinct['x-envelope-from'] ?? [];
  if (from.length !== 1) throw new Refusal(400, 'there has to be one X-Envelope-From');
  const sender = ['', '<>'].includes(from[0].trim()) ? new Address('<>') : address(from[0], 'X-Envelope-From');
  const to = (request.headersDistinct['x-envelope-to'] ?? []).flatMap((value) => value.split(','));
  if (to.length === 0) throw new Refusal(400, 'the header X-Envelope-To is missing');
  if (to.length > this.settings.max_recipients) throw new Refusal(413, 'there are too many recipients');
  return { sender, recipients: to.map((it) => address(it, 'X-Envelope-To')) };
};

// The whole body. What all requests hold together is bounded, too; `answer` takes it off again.
exports.body = async function (request) {
  const { max_bytes, max_memory } = this.settings;
  const too_large = () => new Refusal(413, `the message is larger than ${max_bytes} bytes`);
  if (Number(request.headers['content-length'] ?? 0) > max_bytes) throw too_large();
  const chunks = [];
  // The connection has to outlive a refusal, which else nobody would get to read.
  for await (const chunk of request.iterator({ destroyOnReturn: false })) {
    request.held += chunk.length;
    this.held += chunk.length;
    if (request.held > max_bytes) throw too_large();
    if (this.held > max_memory) throw new Refusal(503, 'too many messages at once');
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
};

// Mail that came by SMTP has no identity from gatepost, whatever it says.
exports.unforged = function (next, connection) {
  if (connection?.transaction) this.mark(connection.transaction);
  next();
};

// Says in `message_header` who sent the message, and that nobody else does.
exports.mark = function (transaction) {
  const name = this.settings.message_header;
  if (!name) return;
  for (const line of transaction.header.lines()) {
    const [other] = line.split(':', 1);
    // In mail by SMTP there may be blanks before the colon, which many drop, or a dot before the name, which gets lost on the way.
    if (other.trim().replace(/^\.+/, '').toLowerCase() === name.toLowerCase()) transaction.remove_header(other);
  }
  const identity = transaction.notes.http_auth;
  if (identity === undefined) return;
  // ASCII, and one text for each identity: an encoded word (`=?utf-8?…?=`) could be somebody's name.
  transaction.add_header(name, identity.replace(/[^ -~]|[%=]/gu, encodeURIComponent));
};

// As gatepost reads it: with or without angle brackets, in ASCII, no quoted user, no route.
function address(text, where) {
  const bare = text.trim().replace(/^<(.*)>$/, '$1');
  try {
    if (bare.length > 254 || !/^[^\s@"<>()[\]:;\\]+@[^\s@"<>()[\]:;\\]+$/.test(bare) || /[^!-~]/.test(bare)) throw new Error();
    return new Address(`<${bare}>`);
  } catch {
    throw new Refusal(400, `${where} holds what is no address`);
  }
}

// The lines of a message, without their ends. Those are CRLF everywhere; where they are LF everywhere, CRLF is meant. A single CR or LF
// between others ends a line for some servers and not for others: a message could smuggle in another one. Longer lines than 998 bytes
// (RFC 5321 §4.5.3.1.6) come back from many servers, when it is too late to tell the client.
function lines_of(body) {
  let text = body.toString('latin1');
  if (!text.includes('\r')) text = text.replaceAll('\n', '\r\n');
  if (/\r(?!\n)|(?<!\r)\n/.test(text)) throw new Refusal(400, 'lines do not all end in the same way');
  if (text.includes('\0')) throw new Refusal(400, 'the message holds a zero byte');
  const lines = text.split('\r\n');
  // What stands behind the last line end: nothing, or a line without end.
  if (lines.at(-1) === '') lines.pop();
  const long = lines.findIndex((line) => line.length > 998);
  if (long >= 0) throw new Refusal(400, `line ${long + 1} is longer than 998 bytes`);
  return lines;
}

// Haraka guesses where a header section is not as it should be, forgets what is longer than `max_lines`, and delivers a header without the
// dot that it begins with: `.X-Sent-As` would be another name when it arrives.
function check_header(lines, max_lines) {
  const end = lines.indexOf('');
  if (end < 1) throw new Refusal(400, 'there has to be a header section, and an empty line behind it');
  if (end > max_lines) throw new Refusal(413, 'the header section has too many lines');
  const section = lines.slice(0, end);
  section.forEach((line, at) => {
    const header = /^[!-\-/-9;-~][!-9;-~]*:/.test(line) || (at > 0 && /^[ \t]+[^ \t]/.test(line));
    // eslint-disable-next-line no-control-regex
    if (!header || /[\x01-\x08\x0b-\x1f\x7f]/.test(line)) throw new Refusal(400, `line ${at + 1} is no header`);
  });
  utf8(section.join('\n'), 'the header section');
}

// Node gives headers, and we read bodies, as bytes in the form of Latin-1.
function utf8(latin1, what) {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(Buffer.from(latin1, 'latin1'));
  } catch {
    throw new Refusal(400, `${what} is not UTF-8`);
  }
}
