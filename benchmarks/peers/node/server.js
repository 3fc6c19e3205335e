// A store for Express' sessions, by the name of its package: node server.js NAME URL.
// What the routes do is said in benchmarks/peers/__init__.py.

"use strict";

const http = require("node:http");
const { setTimeout: sleep } = require("node:timers/promises");

const express = require("express");
const session = require("express-session");

const SECRET = "a secret of at least thirty-two bytes";

const STORES = {
  "express-session": () => new session.MemoryStore(),

  "connect-redis": async (url) => {
    const { RedisStore } = require("connect-redis");
    const client = require("redis").createClient({ url });
    await client.connect();
    return new RedisStore({ client });
  },

  "connect-mongo": async (url) => {
    const { MongoStore } = require("connect-mongo");
    const { MongoClient } = require("mongodb");
    const client = await new MongoClient(url).connect();
    return MongoStore.create({ client, dbName: "peers" });
  },

  "connect-memcached": (url) => {
    const MemcachedStore = require("connect-memcached")(session);
    return new MemcachedStore({ hosts: [new URL(url).host] });
  },

  "connect-memjs": (url) => {
    const MemcachedStore = require("connect-memjs")(session);
    return new MemcachedStore({ servers: [new URL(url).host] });
  },

  "better-sqlite3-session-store": () => {
    const SQLiteStore = require("better-sqlite3-session-store")(session);
    const client = require("better-sqlite3")("sessions.db");
    // As ours does; else each write would wait for the disk.
    client.pragma("journal_mode = WAL");
    client.pragma("synchronous = NORMAL");
    return new SQLiteStore({ client });
  },
};

async function makeMiddleware(name, url) {
  if (name === "cookie-session") {
    return require("cookie-session")({ secret: SECRET });
  }
  const store = await STORES[name](url);
  // Both are false where its documentation says how to choose.
  const options = { resave: false, saveUninitialized: false };
  return session({ ...options, secret: SECRET, store });
}

let writes = 0;

function hello(request, response) {
  response.send("hello");
}

function filling(length) {
  return (request, response) => {
    for (let n = 0; n < 10; n++) {
      request.session[`key${n}`] = "v".repeat(length);
    }
    response.send("hello");
  };
}

function read(request, response) {
  response.send(request.session.key5);
}

function write(request, response) {
  writes += 1;
  request.session.count = 1_000_000 + writes;
  response.send("hello");
}

async function counter(request, response) {
  const n = request.session.n ?? 0;
  await sleep(5);
  request.session.n = n + 1;
  response.send("hello");
}

async function keys(request, response) {
  const value = request.session.key5;
  await sleep(5);
  request.session[request.query.key] = 1;
  response.send(value);
}

function values(request, response) {
  const { cookie, ...values } = request.session;
  response.json(values);
}

async function collect(request, response) {
  // One collection leaves pages to be given back by those that follow, after a while.
  for (let n = 0; n < 5; n++) {
    global.gc();
    await sleep(50);
  }
  response.send("hello");
}

async function serve(...handlers) {
  const app = express();
  for (const handler of handlers) {
    app.use(handler);
  }
  const server = http.createServer(app);
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return `http://127.0.0.1:${server.address().port}/`;
}

async function main(name, url) {
  const handlers = { untouched: hello, fill: filling(15), read, write, counter, keys, values };
  if (name !== "cookie-session") {
    // Its cookie would be too large for a browser.
    Object.assign(handlers, { fill_4k: filling(400), write_4k: write });
  }
  const urls = { bare: await serve(hello) };
  const middleware = await makeMiddleware(name, url);
  for (const [route, handler] of Object.entries(handlers)) {
    urls[route] = await serve(middleware, handler);
  }
  if (name === "express-session") {
    urls.collect = await serve(collect);
  }
  console.log(JSON.stringify({ urls }));
}

main(...process.argv.slice(2)).catch((error) => {
  // The lines after the first say which files have asked for a missing package.
  console.error(error.message.split("\n")[0]);
  process.exit(1);
});
