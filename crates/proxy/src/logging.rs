//! The log, as far as it is looked at and changed from here. Whoever installs it knows how; this crate only writes lines.

/// What can be asked of the log while gatepost runs.
pub trait LogControl: Send + Sync + 'static {
    /// The least severe level that is written.
    fn level(&self) -> String;

    /// Changes it.
    ///
    /// # Errors
    ///
    /// Where there is no such level; the message names those that there are.
    fn set_level(&self, level: &str) -> Result<(), String>;

    /// How many lines could not be written since the start.
    fn lost(&self) -> u64;
}
