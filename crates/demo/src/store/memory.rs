//! The messages in memory: bounded in number and in bytes, the oldest go first.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::store::{Addressed, Batch, Stored, Summary};

/// How many messages are kept.
const MESSAGE_LIMIT: usize = 10_000;

/// How many bytes of text they may have in all.
const BYTE_LIMIT: usize = 64 * 1024 * 1024;

/// What a message costs beside its text, in bytes, roughly: so that the limit is one on memory.
const MESSAGE_COST: usize = 128;

/// The messages, oldest first, their numbers without gaps.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    messages: VecDeque<Held>,
    bytes: usize,
    last_id: i64,
}

#[derive(Debug)]
struct Held {
    id: i64,
    addressed: Addressed,
    request: Arc<Request>,
}

/// What the messages of one request share.
#[derive(Debug)]
struct Request {
    time: String,
    sender: String,
    http_auth: Option<String>,
    size: i64,
    common: String,
}

impl Memory {
    /// Adds the messages of a batch, then lets go of the oldest ones beyond the limits.
    pub(crate) fn add(&mut self, batch: Batch) {
        let request = Arc::new(Request {
            time: batch.time,
            sender: batch.sender,
            http_auth: batch.http_auth,
            size: batch.size,
            common: batch.common,
        });
        if batch.messages.is_empty() {
            return;
        }
        self.bytes += request.bytes();
        for addressed in batch.messages {
            self.last_id += 1;
            let held = Held {
                id: self.last_id,
                addressed,
                request: Arc::clone(&request),
            };
            self.bytes += held.bytes();
            self.messages.push_back(held);
        }
        while self.messages.len() > MESSAGE_LIMIT || self.bytes > BYTE_LIMIT {
            let Some(oldest) = self.messages.pop_front() else {
                break;
            };
            self.bytes -= oldest.bytes();
            // The messages of a request stand side by side, so a neighbour of another request
            // means that this one was the last of its own.
            let shared = self
                .messages
                .front()
                .is_some_and(|next| Arc::ptr_eq(&next.request, &oldest.request));
            if !shared {
                self.bytes -= oldest.request.bytes();
            }
        }
    }

    /// The newest messages, newest first.
    pub(crate) fn newest(&self, limit: usize) -> Vec<Summary> {
        self.messages
            .iter()
            .rev()
            .take(limit)
            .map(Held::summary)
            .collect()
    }

    /// The message with that number.
    pub(crate) fn message(&self, id: i64) -> Option<Stored> {
        let place = self
            .messages
            .binary_search_by_key(&id, |held| held.id)
            .ok()?;
        let held = self.messages.get(place)?;
        Some(Stored {
            summary: held.summary(),
            own: held.addressed.own.clone(),
            common: held.request.common.clone(),
        })
    }
}

impl Held {
    fn bytes(&self) -> usize {
        MESSAGE_COST + self.addressed.recipient.len() + self.addressed.own.len()
    }

    fn summary(&self) -> Summary {
        Summary {
            id: self.id,
            time: self.request.time.clone(),
            sender: self.request.sender.clone(),
            recipient: self.addressed.recipient.clone(),
            http_auth: self.request.http_auth.clone(),
            size: self.request.size,
        }
    }
}

impl Request {
    fn bytes(&self) -> usize {
        MESSAGE_COST + self.sender.len() + self.common.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of `recipients` messages that share `bytes` bytes.
    fn batch(recipients: usize, bytes: usize) -> Batch {
        Batch {
            time: String::new(),
            sender: String::new(),
            http_auth: None,
            size: 0,
            common: "x".repeat(bytes),
            messages: (0..recipients)
                .map(|_| Addressed {
                    recipient: String::new(),
                    own: String::new(),
                })
                .collect(),
        }
    }

    fn ids(memory: &Memory) -> Vec<i64> {
        memory
            .newest(usize::MAX)
            .iter()
            .map(|summary| summary.id)
            .collect()
    }

    #[test]
    fn the_number_of_messages_is_bounded() {
        let mut memory = Memory::default();
        memory.add(batch(10, 1));
        memory.add(batch(MESSAGE_LIMIT - 2, 1));
        let kept = ids(&memory);
        assert_eq!(kept.len(), MESSAGE_LIMIT);
        assert_eq!((kept[0], kept[MESSAGE_LIMIT - 1]), (10_008, 9));
        assert!(memory.message(8).is_none());
        assert!(memory.message(9).is_some());
    }

    #[test]
    fn the_bytes_are_bounded_and_what_is_shared_counts_once() {
        let mut memory = Memory::default();
        memory.add(batch(100, BYTE_LIMIT / 2));
        memory.add(batch(1, BYTE_LIMIT / 4));
        assert_eq!(ids(&memory).len(), 101);
        memory.add(batch(1, BYTE_LIMIT / 4));
        assert_eq!(
            ids(&memory),
            [102, 101],
            "a request's last message frees what they shared"
        );
        assert!(memory.bytes <= BYTE_LIMIT / 2 + 4 * MESSAGE_COST);
    }

    #[test]
    fn a_batch_beyond_all_bounds_leaves_nothing_counted() {
        let mut memory = Memory::default();
        memory.add(batch(3, BYTE_LIMIT + 1));
        assert_eq!((ids(&memory).len(), memory.bytes), (0, 0));
        memory.add(batch(0, 1));
        memory.add(batch(1, 1));
        assert_eq!(ids(&memory), [4]);
    }
}
