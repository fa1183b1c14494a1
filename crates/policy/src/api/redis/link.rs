//! One connection, to a server or into a cluster.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisResult,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use super::answer::{self, Bounded};

pub(super) enum Server {
    One(Box<ConnectionInfo>),
    Cluster(Box<ClusterClient>),
}

#[derive(Clone)]
pub(super) enum Link {
    One {
        connection: MultiplexedConnection,
        _driver: Arc<Driver>,
    },
    Cluster(ClusterConnection),
}

impl Server {
    pub(super) fn single(
        nodes: Vec<String>,
        user: Option<String>,
        password: Option<String>,
    ) -> mlua::Result<Self> {
        let node = nodes.into_iter().next().unwrap_or_default();
        // The address may hold a password, so the fault does not repeat it.
        let unfit = |_| {
            mlua::Error::runtime("redis.open: 'node' is not an address such as redis://HOST:PORT/")
        };
        let info = node.into_connection_info().map_err(unfit)?;
        // What the client is called is of no use to anybody, and older servers do not understand it.
        let mut settings = info.redis_settings().clone().set_skip_set_lib_name();
        if let Some(user) = user {
            settings = settings.set_username(user);
        }
        if let Some(password) = password {
            settings = settings.set_password(password);
        }
        Ok(Self::One(Box::new(info.set_redis_settings(settings))))
    }

    pub(super) fn clustered(
        nodes: Vec<String>,
        user: Option<String>,
        password: Option<String>,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> mlua::Result<Self> {
        let mut builder = ClusterClient::builder(nodes)
            .connection_timeout(connect_timeout)
            .response_timeout(response_timeout);
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
            .map(|client| Self::Cluster(Box::new(client)))
            .map_err(unfit)
    }

    pub(super) async fn connect(&self) -> RedisResult<Link> {
        let info = match self {
            Self::One(info) => info,
            Self::Cluster(client) => return client.get_async_connection().await.map(Link::Cluster),
        };
        let settings = info.redis_settings();
        if let ConnectionAddr::Tcp(host, port) = info.addr() {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            Link::one(stream, settings).await
        } else if let ConnectionAddr::Unix(path) = info.addr() {
            Link::one(UnixStream::connect(path).await?, settings).await
        } else {
            Err(io::Error::from(io::ErrorKind::Unsupported).into())
        }
    }
}

impl Link {
    async fn one<S>(stream: S, settings: &RedisConnectionInfo) -> RedisResult<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // The library's own limits of half a second and a second are not those of the options, which the pool keeps.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None);
        let stream = Bounded::new(stream);
        let (connection, driver) =
            MultiplexedConnection::new_with_config(settings, stream, config).await?;
        Ok(Self::One {
            connection,
            _driver: Arc::new(Driver(tokio::spawn(driver))),
        })
    }

    pub(super) async fn send(mut self, command: &Cmd) -> RedisResult<redis::Value> {
        match &mut self {
            Self::One { connection, .. } => command.query_async(connection).await,
            // The library opens these connections by itself, so the answer is in memory when it is looked at; what the
            // policy makes of it is bounded all the same.
            Self::Cluster(connection) => {
                let answer = command.query_async(connection).await?;
                answer::check(&answer)?;
                Ok(answer)
            }
        }
    }
}

/// The task that reads and writes. It ends with the connection, and at the latest with the last link.
pub(super) struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}
