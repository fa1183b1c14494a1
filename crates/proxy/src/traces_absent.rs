//! In place of `traces.rs` where gatepost is built without the feature `otlp`: there is no value of this.

use crate::metrics::SpanMetrics;
use crate::record::Record;

pub(crate) enum Traces {}

impl Traces {
    /// # Errors
    ///
    /// Always. The configuration does not get here: its reader refuses the key.
    pub(crate) fn new(
        _wanted: &gatepost_config::Traces,
        _running: Option<&Self>,
        _metrics: &SpanMetrics,
    ) -> Result<Self, String> {
        Err("this gatepost was built without the feature `otlp`".to_owned())
    }

    pub(crate) fn join(&self, _record: &mut Record) {
        match *self {}
    }

    pub(crate) fn export(&self, _record: &Record) {
        match *self {}
    }

    pub(crate) fn finish(&self) {
        match *self {}
    }
}
