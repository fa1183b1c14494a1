//! Opens listeners, on TCP and on Unix sockets, and accepts what comes.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use gatepost_config::{Listen, Listener};
use pingora_core::server::ShutdownWatch;
use pingora_runtime::Runtime;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio_util::task::TaskTracker;

use crate::connection::{Accepted, Connections, Entrance};
use crate::descriptors::Seldom;
use crate::opening::Opening;
use crate::server::StartError;
use crate::upgrade::{Inherited, Use};

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4096;

/// Before the next try, where a connection could not be accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener that is open but not served yet.
pub(crate) struct Listening {
    pub(crate) socket: ListeningSocket,
    pub(crate) opening: Opening,
    pub(crate) file: Option<SocketFile>,
}

/// What is listened on.
pub(crate) enum ListeningSocket {
    Tcp(std::net::TcpListener),
    Unix(UnixListener),
}

impl AsFd for ListeningSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Unix(socket) => socket.as_fd(),
        }
    }
}

impl Listening {
    /// Takes what the process before this one has left, or opens it.
    ///
    /// # Errors
    ///
    /// Where nobody can listen there.
    pub(crate) fn open(listener: &Listener, inherited: &mut Inherited) -> Result<Self, StartError> {
        let opening = if listener.proxy_protocol {
            Opening::ProxyHeader
        } else {
            Opening::Request
        };
        let (socket, file) = match &listener.listen {
            Listen::Tcp(address) => {
                let socket = tcp(Use::Clients, *address, inherited)?;
                (ListeningSocket::Tcp(socket), None)
            }
            Listen::Unix(path) => {
                let mode = listener.unix_mode;
                let (socket, file) = match inherited.unix(path) {
                    Some(socket) => SocketFile::inherited(path, mode).map(|it| (socket, it)),
                    None => listen_unix(path, mode),
                }
                .map_err(|source| StartError::Listen {
                    address: listener.listen.clone(),
                    source,
                })?;
                (ListeningSocket::Unix(socket), Some(file))
            }
        };
        Ok(Self {
            socket,
            opening,
            file,
        })
    }

    /// Where it listens, with the port that the system chose.
    pub(crate) fn address(&self) -> Option<Listen> {
        match (&self.socket, &self.file) {
            (ListeningSocket::Tcp(socket), _) => socket.local_addr().ok().map(Listen::Tcp),
            (ListeningSocket::Unix(_), file) => {
                file.as_ref().map(|it| Listen::Unix(it.path.clone()))
            }
        }
    }
}

/// The admin listener.
///
/// # Errors
///
/// Where nobody can listen there.
pub(crate) fn open_admin(
    address: SocketAddr,
    inherited: &mut Inherited,
) -> Result<std::net::TcpListener, StartError> {
    tcp(Use::Admin, address, inherited)
}

fn tcp(
    kind: Use,
    address: SocketAddr,
    inherited: &mut Inherited,
) -> Result<std::net::TcpListener, StartError> {
    match inherited.tcp(kind, address) {
        Some(listener) => Ok(listener),
        None => listen_tcp(address),
    }
}

fn listen_tcp(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let open = || {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        // A restart must not wait for the last connections of the process before it.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    open().map_err(|source| StartError::Listen {
        address: Listen::Tcp(address),
        source,
    })
}

fn listen_unix(path: &Path, mode: u32) -> io::Result<(UnixListener, SocketFile)> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile::new(path, FileId::of(path)?);
    // Before it listens nobody can connect, so nobody comes in by permissions that are not meant.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok((socket.into(), file))
}

/// Takes away what a process left that was killed. What somebody listens on, or is no socket, stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(fault) => return Err(fault),
    };
    if !metadata.file_type().is_socket() {
        let message = "there is a file that is no socket";
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
    }
    match UnixStream::connect(path) {
        Err(fault) if fault.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(fault) => Err(fault),
    }
}

/// Which file it is, whatever its path names later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(crate) const LENGTH: usize = 16;

    /// # Errors
    ///
    /// Where there is none, or it cannot be looked at.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }

    pub(crate) fn to_bytes(self) -> [u8; Self::LENGTH] {
        (u128::from(self.device) << 64 | u128::from(self.inode)).to_be_bytes()
    }

    /// `None` where all is zero, which is no file's.
    pub(crate) fn from_bytes(bytes: [u8; Self::LENGTH]) -> Option<Self> {
        let [device, inode] = [0, 8].map(|at| {
            let half = bytes.iter().skip(at).take(8);
            half.fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        });
        (inode != 0).then_some(Self { device, inode })
    }
}

/// The file of a Unix socket. Removed when dropped, unless another has taken its place by then, or another process listens on
/// it.
pub(crate) struct SocketFile {
    path: PathBuf,
    id: FileId,
    ours: bool,
    /// What its permissions become when this process takes over.
    mode: Option<u32>,
}

impl SocketFile {
    pub(crate) fn new(path: &Path, id: FileId) -> Self {
        Self {
            path: path.to_owned(),
            id,
            ours: true,
            mode: None,
        }
    }

    /// One on which the process before this one listens, and goes on to do so where this one does not get ready.
    fn inherited(path: &Path, mode: u32) -> io::Result<Self> {
        let mut file = Self::new(path, FileId::of(path)?);
        file.ours = false;
        file.mode = Some(mode);
        Ok(file)
    }

    pub(crate) fn id(&self) -> FileId {
        self.id
    }

    /// This process takes over, and is the one that removes it.
    pub(crate) fn keep(&mut self) {
        self.ours = true;
        let Some(mode) = self.mode.take() else {
            return;
        };
        let permissions = std::fs::Permissions::from_mode(mode);
        if let Err(fault) = std::fs::set_permissions(&self.path, permissions) {
            tracing::error!(path = %self.path.display(), %fault, "cannot set permissions");
        }
    }

    /// Another process has taken over.
    pub(crate) fn leave(&mut self) {
        self.ours = false;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = self.ours && FileId::of(&self.path).is_ok_and(|it| it == self.id);
        if ours && let Err(fault) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %fault, "cannot remove the socket");
        }
    }
}

enum Acceptor {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Acceptor {
    fn new(socket: ListeningSocket) -> io::Result<Self> {
        Ok(match socket {
            ListeningSocket::Tcp(socket) => Self::Tcp(tokio::net::TcpListener::from_std(socket)?),
            ListeningSocket::Unix(socket) => {
                Self::Unix(tokio::net::UnixListener::from_std(socket)?)
            }
        })
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(socket) => {
                let (tcp, peer) = socket.accept().await?;
                Ok(Accepted::Tcp(tcp, peer))
            }
            Self::Unix(socket) => Ok(Accepted::Unix(socket.accept().await?.0)),
        }
    }

    /// Closes, after it has served what the kernel has taken in already. Asked of the kernel itself: the runtime may not have
    /// heard of the last ones yet.
    fn close(self, serve: impl Fn(Accepted)) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                let socket = socket.into_std()?;
                while let Ok((tcp, peer)) = socket.accept() {
                    tcp.set_nonblocking(true)?;
                    serve(Accepted::Tcp(tokio::net::TcpStream::from_std(tcp)?, peer));
                }
            }
            Self::Unix(socket) => {
                let socket = socket.into_std()?;
                while let Ok((unix, _)) = socket.accept() {
                    unix.set_nonblocking(true)?;
                    serve(Accepted::Unix(tokio::net::UnixStream::from_std(unix)?));
                }
            }
        }
        Ok(())
    }
}

/// Accepts and serves until gatepost stops. Gives the files that have to be removed when all is over.
pub(crate) fn accept(
    listeners: Vec<Listening>,
    connections: &Arc<Connections>,
    shutdown: &ShutdownWatch,
    tracker: &TaskTracker,
    runtime: &Runtime,
) -> Vec<SocketFile> {
    let mut files = Vec::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let entrance = Entrance {
            listener: index,
            opening: listener.opening,
        };
        files.extend(listener.file);
        let (connections, shutdown) = (connections.clone(), shutdown.clone());
        let socket = listener.socket;
        let serving = serve(socket, entrance, connections, shutdown, tracker.clone());
        tracker.spawn_on(serving, runtime.get_handle());
    }
    files
}

async fn serve(
    socket: ListeningSocket,
    entrance: Entrance,
    connections: Arc<Connections>,
    mut shutdown: ShutdownWatch,
    tracker: TaskTracker,
) {
    let acceptor = match Acceptor::new(socket) {
        Ok(acceptor) => acceptor,
        Err(fault) => return tracing::error!(%fault, "cannot serve a listener"),
    };
    let unseen = shutdown.clone();
    let serve = |socket| {
        let (connections, shutdown) = (connections.clone(), unseen.clone());
        let serving = async move { connections.serve(socket, entrance, shutdown).await };
        tracker.spawn_on(serving, &pingora_runtime::current_handle());
    };
    let failures = &connections.metrics.descriptors.accept_failures;
    let mut seldom = Seldom::default();
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = acceptor.accept() => accepted,
            _ = shutdown.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok(socket) => serve(socket),
            // One that went away before it was its turn: the next may be well.
            Err(fault) if fault.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(fault) => {
                failures.inc();
                if let Some(times) = seldom.now(Instant::now()) {
                    tracing::error!(%fault, times, "cannot accept connections; they wait");
                }
                // Out of file descriptors, most likely: nothing is gained by trying at full speed.
                tokio::select! {
                    () = tokio::time::sleep(PAUSE) => {}
                    _ = shutdown.wait_for(|stop| *stop) => break,
                }
            }
        }
    }
    if let Err(fault) = acceptor.close(serve) {
        tracing::error!(%fault, "cannot accept the last connections");
    }
}
