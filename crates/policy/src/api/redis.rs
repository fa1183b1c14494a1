//! The module `redis`, as `KumoMTA` has it.
//!
//! A connection is opened when it is first used and again after it broke, so a policy loads while Redis is down, and works
//! again when it is back. Every wait has a limit, and so has every answer.

mod answer;
mod link;

use std::sync::Arc;
use std::time::Duration;

use mlua::{Lua, Table, UserData, UserDataMethods, Value, Variadic};
use redis::Cmd;
use tokio::sync::Mutex;

use self::link::{Link, Server};
use super::{Host, bad_argument, duration, only_options, text};

/// Together less than a call may take by default, so that the handler sees an error and can say what then.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const POOL_SIZE: usize = 4;

pub(super) fn module(lua: &Lua, _host: &Host<'_>) -> mlua::Result<Table> {
    let module = lua.create_table()?;
    module.set(
        "open",
        lua.create_function(|_, options: Value| {
            let Value::Table(options) = options else {
                return Err(bad_argument(1, "redis.open", "table", &options));
            };
            Ok(Redis(Arc::new(Pool::new(&options)?)))
        })?,
    )?;
    Ok(module)
}

struct Redis(Arc<Pool>);

impl UserData for Redis {
    fn add_methods<M: UserDataMethods<Self>>(methods: &mut M) {
        methods.add_async_method("query", async |lua, this, arguments: Variadic<Value>| {
            let pool = this.0.clone();
            drop(this);
            if let Some(Value::String(name)) = arguments.first() {
                refuse_stateful(&name.to_string_lossy())?;
            }
            let mut command = Cmd::new();
            for (index, argument) in arguments.iter().enumerate() {
                push(&mut command, argument, index + 1)?;
            }
            if arguments.is_empty() {
                return Err(bad_argument(1, "query", "string", &Value::Nil));
            }
            let answer = pool.query(&command).await?;
            to_lua(&lua, answer)
        });
    }
}

/// Calls share connections, so what changes a connection would change it for others.
const STATEFUL: [&str; 18] = [
    "AUTH",
    "CLIENT",
    "DISCARD",
    "EXEC",
    "HELLO",
    "MONITOR",
    "MULTI",
    "PSUBSCRIBE",
    "PUNSUBSCRIBE",
    "QUIT",
    "RESET",
    "SELECT",
    "SSUBSCRIBE",
    "SUBSCRIBE",
    "SUNSUBSCRIBE",
    "UNSUBSCRIBE",
    "UNWATCH",
    "WATCH",
];

fn refuse_stateful(name: &str) -> mlua::Result<()> {
    let name = name.trim().to_ascii_uppercase();
    if STATEFUL.contains(&name.as_str()) {
        return Err(mlua::Error::runtime(format!(
            "redis: {name} changes the connection, which is shared with other calls"
        )));
    }
    Ok(())
}

/// What the server says, without the arguments that it repeats for a command that it does not know.
fn said(fault: &str) -> String {
    let (said, _) = fault.split_once(", with args").unwrap_or((fault, ""));
    format!("redis: {said}")
}

fn push(command: &mut Cmd, argument: &Value, position: usize) -> mlua::Result<()> {
    if let Value::String(string) = argument {
        command.arg(&*string.as_bytes());
    } else if let Value::Integer(number) = argument {
        command.arg(*number);
    } else if let Value::Number(number) = argument {
        command.arg(*number);
    } else {
        return Err(bad_argument(
            position,
            "query",
            "string or number",
            argument,
        ));
    }
    Ok(())
}

/// A few connections, taken in turn; each carries many queries at once.
struct Pool {
    server: Server,
    connect_timeout: Duration,
    response_timeout: Duration,
    places: Vec<Mutex<Option<Link>>>,
    next: std::sync::atomic::AtomicUsize,
}

impl Pool {
    fn new(options: &Table) -> mlua::Result<Self> {
        let known = [
            "node",
            "pool_size",
            "username",
            "password",
            "connect_timeout",
            "response_timeout",
            "cluster",
        ];
        only_options(options, "redis.open", &known)?;
        let nodes = nodes(&options.get::<Value>("node")?)?;
        let (user, password) = (
            options.get::<Option<String>>("username")?,
            options.get::<Option<String>>("password")?,
        );
        let pool_size = options
            .get::<Option<usize>>("pool_size")?
            .unwrap_or(POOL_SIZE)
            .clamp(1, 64);
        let cluster = options
            .get::<Option<bool>>("cluster")?
            .unwrap_or(nodes.len() > 1);
        let time = |name: &str| duration(&options.get::<Value>(name)?, "redis.open", name);
        let connect_timeout = time("connect_timeout")?.unwrap_or(CONNECT_TIMEOUT);
        let response_timeout = time("response_timeout")?.unwrap_or(RESPONSE_TIMEOUT);
        Ok(Self {
            server: if cluster {
                Server::clustered(nodes, user, password, connect_timeout, response_timeout)?
            } else {
                Server::single(nodes, user, password)?
            },
            connect_timeout,
            response_timeout,
            places: (0..pool_size).map(|_| Mutex::default()).collect(),
            next: std::sync::atomic::AtomicUsize::new(0),
        })
    }

    /// Asks once; where the connection turned out to be dead before the question was sent, once more on a fresh one.
    async fn query(&self, command: &Cmd) -> mlua::Result<redis::Value> {
        let index =
            self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed) % self.places.len();
        let place = self
            .places
            .get(index)
            .ok_or_else(|| mlua::Error::runtime("redis: no connection"))?;
        let link = self.link(place).await?;
        let answer = tokio::time::timeout(self.response_timeout, link.send(command)).await;
        let fault = match answer {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(fault)) if fault.is_io_error() || fault.is_connection_dropped() => {
                fault.to_string()
            }
            Ok(Err(fault)) => return Err(mlua::Error::runtime(said(&fault.to_string()))),
            Err(_) => format!("no answer within {:?}", self.response_timeout),
        };
        // Whatever is wrong with the connection, the next query starts with a new one.
        place.lock().await.take();
        Err(mlua::Error::runtime(format!("redis: {fault}")))
    }

    async fn link(&self, place: &Mutex<Option<Link>>) -> mlua::Result<Link> {
        let connecting = async {
            let mut place = place.lock().await;
            if let Some(link) = &*place {
                return Ok(link.clone());
            }
            let link = self.server.connect().await?;
            *place = Some(link.clone());
            Ok::<_, redis::RedisError>(link)
        };
        match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(fault)) => Err(mlua::Error::runtime(format!(
                "redis: cannot connect: {fault}"
            ))),
            Err(_) => Err(mlua::Error::runtime(format!(
                "redis: cannot connect within {:?}",
                self.connect_timeout
            ))),
        }
    }
}

fn nodes(node: &Value) -> mlua::Result<Vec<String>> {
    if let Value::Table(list) = node {
        let list: Vec<String> = list.sequence_values().collect::<mlua::Result<_>>()?;
        if !list.is_empty() {
            return Ok(list);
        }
    }
    if node.is_nil() {
        return Err(mlua::Error::runtime("redis.open needs the option 'node'"));
    }
    Ok(vec![text(node, 1, "redis.open")?.to_owned()])
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the rest is the server's own initiative, never an answer to a query"
)]
fn to_lua(lua: &Lua, answer: redis::Value) -> mlua::Result<Value> {
    use redis::Value as Answer;
    Ok(match answer {
        Answer::Int(number) => Value::Integer(number),
        Answer::BulkString(bytes) => Value::String(lua.create_string(bytes)?),
        Answer::SimpleString(text) | Answer::VerbatimString { text, .. } => {
            Value::String(lua.create_string(text)?)
        }
        // As in KumoMTA; any other status is a string.
        Answer::Okay => Value::Boolean(true),
        Answer::Double(number) => Value::Number(number),
        Answer::Boolean(truth) => Value::Boolean(truth),
        Answer::Array(items) | Answer::Set(items) => list(lua, items)?,
        Answer::Map(pairs) => {
            let table = lua.create_table()?;
            for (key, value) in pairs {
                table.set(to_lua(lua, key)?, to_lua(lua, value)?)?;
            }
            Value::Table(table)
        }
        Answer::ServerError(fault) => {
            return Err(mlua::Error::runtime(said(&format!("{fault:?}"))));
        }
        Answer::Nil => Value::Nil,
        _ => Value::Nil,
    })
}

/// Every item at its place. Lua's `#` means nothing in a list with a nil in it, so such a one says its length itself.
fn list(lua: &Lua, items: Vec<redis::Value>) -> mlua::Result<Value> {
    let length = items.len();
    let list = lua.create_table_with_capacity(length, 0)?;
    let mut gaps = false;
    for (index, item) in (1_usize..).zip(items) {
        let item = to_lua(lua, item)?;
        gaps |= item.is_nil();
        list.raw_set(index, item)?;
    }
    if gaps {
        let meta = lua.create_table()?;
        meta.raw_set("__len", lua.create_function(move |_, _: Value| Ok(length))?)?;
        list.set_metatable(Some(meta))?;
    }
    Ok(Value::Table(list))
}

#[cfg(test)]
mod tests;
