//! The module `redis`, as `KumoMTA` has it.
//!
//! A connection is opened when it is first used and again after it broke, so a policy loads while Redis is down, and works
//! again when it is back. Every wait has a limit.

use std::sync::Arc;
use std::time::Duration;

use mlua::{Lua, MultiValue, Table, UserData, UserDataMethods, Value, Variadic};
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, IntoConnectionInfo as _};
use tokio::sync::Mutex;

use super::{Host, bad_argument, duration, only_options, text};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);
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

enum Server {
    One(Client),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
enum Link {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
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
        Ok(Self {
            server: if cluster {
                clustered(nodes, user, password)?
            } else {
                single(nodes, user, password)?
            },
            connect_timeout: time("connect_timeout")?.unwrap_or(CONNECT_TIMEOUT),
            response_timeout: time("response_timeout")?.unwrap_or(RESPONSE_TIMEOUT),
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

fn single(
    nodes: Vec<String>,
    user: Option<String>,
    password: Option<String>,
) -> mlua::Result<Server> {
    let node = nodes.into_iter().next().unwrap_or_default();
    // The address may hold a password, so the fault does not repeat it.
    let unfit =
        |_| mlua::Error::runtime("redis.open: 'node' is not an address such as redis://HOST:PORT/");
    let info = node.into_connection_info().map_err(unfit)?;
    let mut settings = info.redis_settings().clone();
    if let Some(user) = user {
        settings = settings.set_username(user);
    }
    if let Some(password) = password {
        settings = settings.set_password(password);
    }
    Ok(Server::One(
        Client::open(info.set_redis_settings(settings)).map_err(unfit)?,
    ))
}

fn clustered(
    nodes: Vec<String>,
    user: Option<String>,
    password: Option<String>,
) -> mlua::Result<Server> {
    let mut builder = ClusterClient::builder(nodes);
    if let Some(user) = user {
        builder = builder.username(user);
    }
    if let Some(password) = password {
        builder = builder.password(password);
    }
    let unfit = |_| {
        mlua::Error::runtime(
            "redis.open: 'node' is not a list of addresses such as redis://HOST:PORT/",
        )
    };
    builder
        .build()
        .map(|client| Server::Cluster(Box::new(client)))
        .map_err(unfit)
}

impl Server {
    async fn connect(&self) -> redis::RedisResult<Link> {
        match self {
            Self::One(client) => {
                let plain = AsyncConnectionConfig::new();
                client
                    .get_multiplexed_async_connection_with_config(&plain)
                    .await
                    .map(Link::One)
            }
            Self::Cluster(client) => client.get_async_connection().await.map(Link::Cluster),
        }
    }
}

impl Link {
    async fn send(mut self, command: &Cmd) -> redis::RedisResult<redis::Value> {
        match &mut self {
            Self::One(connection) => command.query_async(connection).await,
            Self::Cluster(connection) => command.query_async(connection).await,
        }
    }
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
        Answer::Okay => Value::String(lua.create_string("OK")?),
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

fn list(lua: &Lua, items: Vec<redis::Value>) -> mlua::Result<Value> {
    let mut values = MultiValue::new();
    for item in items {
        values.push_back(to_lua(lua, item)?);
    }
    lua.create_sequence_from(values).map(Value::Table)
}

#[cfg(test)]
mod tests {
    use crate::tests::check_body;

    #[test]
    fn options_and_arguments_are_checked() {
        for (call, words) in [
            (
                "redis.open()",
                "bad argument #1 to 'redis.open' (table expected, got no value)",
            ),
            ("redis.open {}", "needs the option 'node'"),
            (
                "redis.open { node = 'redis://127.0.0.1:1/', surprise = 1 }",
                "has no option 'surprise'",
            ),
            (
                "redis.open { node = 'nonsense://hidden@x' }",
                "'node' is not an address",
            ),
            (
                "redis.open { node = 'redis://127.0.0.1:1/', connect_timeout = 'soon' }",
                "'connect_timeout' is a time span",
            ),
            (
                "redis.open { node = 'redis://127.0.0.1:1/' }:query()",
                "bad argument #1 to 'query'",
            ),
            (
                "redis.open { node = 'redis://127.0.0.1:1/' }:query('GET', {})",
                "bad argument #2 to 'query'",
            ),
            (
                "redis.open { node = 'redis://127.0.0.1:1/' }:query('select', 1)",
                "SELECT changes the connection",
            ),
            (
                "redis.open { node = 'redis://127.0.0.1:1/' }:query 'MULTI'",
                "MULTI changes the connection",
            ),
        ] {
            check_body(&format!(
                "local redis = require 'redis'
                 local ok, fault = pcall(function() {call} end) fault = tostring(fault)
                 return not ok and fault:find([[{words}]], 1, true) ~= nil and not fault:find 'hidden' or error(fault)"
            ));
        }
    }

    /// A policy loads while Redis is down; the calls that need it fail, and soon.
    #[test]
    fn a_server_that_is_not_there_is_an_error_in_time() {
        check_body(
            "local redis = require 'redis'
             local connection = redis.open { node = 'redis://127.0.0.1:1/', connect_timeout = '1 second' }
             local ok, fault = pcall(connection.query, connection, 'PING')
             return not ok and tostring(fault):find 'redis: cannot connect' ~= nil or error(fault)",
        );
    }

    /// The attack: a server that takes the question and says nothing.
    #[test]
    fn a_server_that_is_silent_is_an_error_in_time() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = silent.local_addr().unwrap();
        check_body(&format!(
            "local redis = require 'redis'
             local connection = redis.open {{ node = 'redis://{address}/', connect_timeout = 0.2, response_timeout = 0.2 }}
             local ok, fault = pcall(connection.query, connection, 'PING')
             return not ok and tostring(fault):find 'within' ~= nil or error(fault)"
        ));
    }
}
