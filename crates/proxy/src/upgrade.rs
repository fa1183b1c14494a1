//! A new binary takes over without a gap: SIGQUIT starts it, hands it the listening sockets, and once it says that it is ready
//! this process stops accepting and lets its requests finish.
//!
//! The way between the two is a pair of Unix sockets, of which the new process finds one as its standard input: so nothing has
//! to be inherited by number, which safe Rust cannot take up. The sockets go one way (SCM_RIGHTS, unix(7)), `ready` or the
//! reason why not the other.

use std::env;
use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt::socket_acceptconn,
};
use socket2::{SockAddr, Socket};
use tokio::io::AsyncReadExt as _;

use crate::listening::{FileId, Listening, SocketFile};

/// Holds the predecessor's process id in the environment of a process that is to take over.
const VARIABLE: &str = "GATEPOST_UPGRADE";

const READY: &[u8] = b"ready\n";

/// How long the new process may take to load configuration and policy.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long it waits for sockets that were sent before it was started.
const SHORTLY: Duration = Duration::from_secs(5);

/// What a socket is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    Clients,
    Admin,
}

/// What is said of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Label {
    /// As [`Use::byte`] has it. One that this version does not know is nobody's.
    kind: u8,
    /// Its file, where it has one.
    file: Option<FileId>,
}

impl Label {
    const LENGTH: usize = 1 + FileId::LENGTH;

    fn to_bytes(self) -> [u8; Self::LENGTH] {
        let mut bytes = [0; Self::LENGTH];
        let (kind, file) = bytes.split_at_mut(1);
        kind.fill(self.kind);
        if let Some(id) = self.file {
            file.copy_from_slice(&id.to_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        let [kind, file @ ..] = bytes;
        Self {
            kind,
            file: FileId::from_bytes(file),
        }
    }
}

/// The listening sockets of this process, for the one after it.
#[derive(Default)]
pub(crate) struct Sockets(Vec<(Label, OwnedFd)>);

impl Sockets {
    /// # Errors
    ///
    /// Where there are no more file descriptors.
    pub(crate) fn of(listeners: &[Listening], admin: Option<&TcpListener>) -> io::Result<Self> {
        let of = |kind: Use, file, socket: &dyn AsFd| {
            let kind = kind.byte();
            Ok((Label { kind, file }, socket.as_fd().try_clone_to_owned()?))
        };
        let listeners = listeners.iter().map(|it| {
            let file = it.file.as_ref().map(SocketFile::id);
            of(Use::Clients, file, &it.socket)
        });
        let admin = admin.map(|it| of(Use::Admin, None, it));
        listeners.chain(admin).collect::<io::Result<_>>().map(Self)
    }

    /// Starts this program as it was started, and gives the process id once it is ready. Where it does not get there, or this
    /// future is dropped before, it is killed.
    ///
    /// # Errors
    ///
    /// Why the new process cannot take over.
    pub(crate) async fn hand_over(&self) -> Result<u32, String> {
        if std::process::id() == 1 {
            return Err(
                "process 1 cannot be followed by another: its end is the container's".to_owned(),
            );
        }
        let (successor, ours) = self.start().map_err(|fault| fault.to_string())?;
        let answer = tokio::time::timeout(PATIENCE, answer(ours)).await;
        match answer {
            Ok(Ok(text)) if text == READY => successor.let_go(),
            Ok(Ok(text)) if text.is_empty() => Err("the new process ended".to_owned()),
            Ok(Ok(text)) => Err(String::from_utf8_lossy(&text).trim().to_owned()),
            Ok(Err(fault)) => Err(fault.to_string()),
            Err(_) => Err(format!("the new process is not ready after {PATIENCE:?}")),
        }
    }

    fn start(&self) -> io::Result<(Successor, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        for (label, socket) in &self.0 {
            send(&ours, *label, socket)?;
        }
        ours.shutdown(Shutdown::Write)?;
        // As a shell would: a name without a slash is looked for in PATH, and a link leads to what it names now.
        let mut arguments = env::args_os();
        let program = arguments.next().unwrap_or_else(|| "gatepost".into());
        let child = Command::new(program)
            .args(arguments)
            .env(VARIABLE, std::process::id().to_string())
            // systemd wrote it for this process alone.
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        Ok((Successor(Some(child)), ours))
    }
}

async fn answer(ours: UnixStream) -> io::Result<Vec<u8>> {
    const MOST: usize = 64 * 1024;
    ours.set_nonblocking(true)?;
    let mut ours = tokio::net::UnixStream::from_std(ours)?;
    let mut text = Vec::new();
    while text != READY && text.len() < MOST {
        match ours.read_buf(&mut text).await {
            Ok(0) => break,
            // It ended before it took what was sent.
            Err(fault) if fault.kind() == io::ErrorKind::ConnectionReset => break,
            read => read?,
        };
    }
    Ok(text)
}

/// The new process, until it stands on its own.
struct Successor(Option<Child>);

impl Successor {
    fn let_go(mut self) -> Result<u32, String> {
        let child = self.0.take();
        child
            .map(|it| it.id())
            .ok_or_else(|| "there is no new process".to_owned())
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended already; either way it has to be waited for, or it stays as a zombie.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn send(to: &UnixStream, label: Label, socket: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let sockets = [socket.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&sockets));
    sendmsg(
        to,
        &[IoSlice::new(&label.to_bytes())],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// `None` at the end.
fn receive(from: &UnixStream) -> io::Result<Option<(Label, Option<OwnedFd>)>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut label = [0; Label::LENGTH];
    let message = recvmsg(
        from,
        &mut [IoSliceMut::new(&mut label)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    if message.bytes == 0 {
        return Ok(None);
    }
    let mut socket = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut sockets) = message {
            socket = sockets.next();
        }
    }
    Ok(Some((Label::from_bytes(label), socket)))
}

impl Use {
    fn byte(self) -> u8 {
        match self {
            Self::Clients => b'c',
            Self::Admin => b'a',
        }
    }
}

/// What the process before this one has handed over, if there is one.
#[derive(Default)]
pub(crate) struct Inherited {
    sockets: Vec<(Label, Socket)>,
    predecessor: Option<UnixStream>,
}

impl Inherited {
    /// Takes it up.
    ///
    /// # Errors
    ///
    /// Where the predecessor cannot be listened to.
    pub(crate) fn take() -> io::Result<Self> {
        let Some(predecessor) = predecessor() else {
            return Ok(Self::default());
        };
        predecessor.set_read_timeout(Some(SHORTLY))?;
        let mut sockets = Vec::new();
        while let Some((label, socket)) = receive(&predecessor)? {
            sockets.extend(socket.map(|it| (label, Socket::from(it))));
        }
        Ok(Self {
            sockets,
            predecessor: Some(predecessor),
        })
    }

    /// The socket that listens where this one is to, if it is there. Port 0 takes whichever port the system chose before.
    pub(crate) fn tcp(&mut self, kind: Use, address: SocketAddr) -> Option<TcpListener> {
        let here = |it: SocketAddr| {
            it.ip() == address.ip() && (it.port() == address.port() || address.port() == 0)
        };
        let socket = self.take_out(kind, |_, it| it.as_socket().is_some_and(here))?;
        Some(socket.into())
    }

    /// The socket that listens here, if it is there and the file is still its own: one that was removed, or that another has
    /// put in its place, leads nobody to it.
    pub(crate) fn unix(&mut self, path: &Path) -> Option<UnixListener> {
        let file = FileId::of(path).ok()?;
        let socket = self.take_out(Use::Clients, |its, it| {
            its == Some(file) && it.as_pathname() == Some(path)
        })?;
        Some(socket.into())
    }

    fn take_out(
        &mut self,
        kind: Use,
        wanted: impl Fn(Option<FileId>, &SockAddr) -> bool,
    ) -> Option<Socket> {
        let place = self.sockets.iter().position(|(label, socket)| {
            label.kind == kind.byte()
                && socket_acceptconn(socket).unwrap_or(false)
                && socket.local_addr().is_ok_and(|it| wanted(label.file, &it))
        })?;
        Some(self.sockets.remove(place).1)
    }

    /// Tells the predecessor that it can go. What listens where the configuration does not say any more is closed, and its
    /// file removed: the predecessor leaves all of them.
    pub(crate) fn ready(self) {
        if let Some(mut predecessor) = self.predecessor
            && let Err(fault) = predecessor.write_all(READY)
        {
            tracing::warn!(%fault, "the gatepost before this one cannot be told to go");
        }
        for (label, socket) in self.sockets {
            if let Some(file) = label.file
                && let Ok(address) = socket.local_addr()
                && let Some(path) = address.as_pathname()
            {
                drop(SocketFile::new(path, file));
            }
        }
    }
}

/// Tells the process that started this one to take over why it cannot. Does nothing where nobody did.
pub fn tell_predecessor(fault: &str) {
    if let Some(mut predecessor) = predecessor() {
        // What it sent is taken first: an end with something unread would be a reset, and the words lost.
        while predecessor.set_read_timeout(Some(SHORTLY)).is_ok()
            && matches!(receive(&predecessor), Ok(Some(_)))
        {}
        // It sees the end of this process as well.
        let _ = predecessor.write_all(fault.as_bytes());
    }
}

/// The way to the process that started this one to take over. The variable alone is not believed: it is inherited further.
fn predecessor() -> Option<UnixStream> {
    let wanted: i32 = env::var(VARIABLE).ok()?.parse().ok()?;
    let parent = rustix::process::getppid()?.as_raw_nonzero().get();
    let input = io::stdin().as_fd().try_clone_to_owned().ok()?;
    (wanted == parent).then(|| UnixStream::from(input))
}
