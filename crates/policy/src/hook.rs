//! Keeps Lua code from running longer than it may, and from keeping others waiting.
//!
//! Lua calls a hook every so many instructions. It ends a call whose deadline has passed, and otherwise
//! makes a busy call step back, so that the other calls of its worker get their turn. It does not run
//! inside C functions such as `string.find`; for those, see the supervisor in [`crate::pool`].

use std::cell::Cell;
use std::ffi::c_void;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use mlua::{HookTriggers, Lua, VmState};

/// Instructions between two looks at the clock: about 100 µs of pure Lua. That there is a hook doubles
/// the time of pure Lua; from 1,000 instructions upwards the interval no longer matters. A loop of 2e7
/// turns took 132 ms without a hook, and 262 to 269 ms with one every 1,000 to 100,000 instructions.
const INSTRUCTIONS: u32 = 10_000;

/// Which call is being run right now. A Lua state runs one at a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turn(Rc<Cell<Option<Running>>>);

#[derive(Debug, Clone, Copy)]
struct Running {
    deadline: Instant,
    /// The call's own coroutine, which may step back; one that the policy made inside of it may not,
    /// since whoever resumed it would take that for its end.
    coroutine: *const c_void,
}

/// One call, as others may know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller {
    /// When it is over, whatever it does.
    pub(crate) deadline: Instant,
    /// Where its coroutine is: no two calls are at one place at the same time, in whichever Lua state.
    coroutine: usize,
}

/// Installs the hook. It covers every coroutine, also those that the policy makes.
pub(crate) fn install(lua: &Lua, turn: &Turn) -> mlua::Result<()> {
    let turn = turn.clone();
    lua.set_global_hook(now_and_then(), move |lua, _| look(lua, &turn))
}

fn now_and_then() -> HookTriggers {
    HookTriggers::new().every_nth_instruction(INSTRUCTIONS)
}

fn look(lua: &Lua, turn: &Turn) -> mlua::Result<VmState> {
    let Some(running) = turn.0.get() else {
        return Ok(VmState::Continue);
    };
    if Instant::now() >= running.deadline {
        // From here on every single instruction raises. A policy that catches the first error
        // with `pcall`, in a loop even, gets no further than the next instruction.
        let every = HookTriggers::new().every_nth_instruction(1);
        let late = turn.clone();
        lua.set_hook(every, move |lua, _| {
            if late.is_over() {
                return Err(out_of_time());
            }
            // A call's own coroutine ends with it, but the state's main one, where errors are put into
            // words, serves the next call too.
            let turn = late.clone();
            lua.set_hook(now_and_then(), move |lua, _| look(lua, &turn))?;
            Ok(VmState::Continue)
        })?;
        return Err(out_of_time());
    }
    let outermost = lua.current_thread().to_pointer() == running.coroutine;
    Ok(if outermost {
        VmState::Yield
    } else {
        VmState::Continue
    })
}

fn out_of_time() -> mlua::Error {
    mlua::Error::runtime("the call took too long")
}

impl Turn {
    /// Whether the call that is being run has no time left.
    pub(crate) fn is_over(&self) -> bool {
        let running = self.0.get();
        running.is_some_and(|running| Instant::now() >= running.deadline)
    }

    /// The call that is being run; one without a deadline has `otherwise`.
    pub(crate) fn caller(&self, otherwise: Duration) -> Caller {
        self.0.get().map_or_else(
            || Caller {
                deadline: Instant::now() + otherwise,
                coroutine: 0,
            },
            |running| Caller {
                deadline: running.deadline,
                coroutine: running.coroutine.addr(),
            },
        )
    }

    /// Wraps a call so that the hook knows about it whenever it runs.
    pub(crate) fn take<F>(
        &self,
        deadline: Instant,
        coroutine: *const c_void,
        watch: impl Fn(bool) + Unpin,
        call: F,
    ) -> impl Future<Output = F::Output>
    where
        F: Future + Unpin,
    {
        let turn = self.clone();
        Timed {
            call,
            turn,
            running: Running {
                deadline,
                coroutine,
            },
            watch,
        }
    }
}

struct Timed<F, W> {
    call: F,
    turn: Turn,
    running: Running,
    /// Told true before and false after every stretch of running.
    watch: W,
}

impl<F: Future + Unpin, W: Fn(bool) + Unpin> Future for Timed<F, W> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let before = self.turn.0.replace(Some(self.running));
        (self.watch)(true);
        let polled = Pin::new(&mut self.call).poll(context);
        (self.watch)(false);
        self.turn.0.set(before);
        polled
    }
}
