//! The queue of messages to the controller.
//!
//! Bounded: progress that finds it full is dropped, since newer progress follows; results wait.

use proto::v1::{AgentMessage, agent_message::Message};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Messages that may wait.
const LIMIT: usize = 256;

/// Puts messages on their way up the control stream.
#[derive(Debug, Clone)]
pub(crate) struct UpQueue {
    sender: Sender<AgentMessage>,
}

impl UpQueue {
    /// A queue, and the end that the stream takes from.
    pub(crate) fn new() -> (Self, Receiver<AgentMessage>) {
        let (sender, receiver) = channel(LIMIT);
        (Self { sender }, receiver)
    }

    /// Waits for room. A message to a stream that has broken is lost: the controller will ask again.
    pub(crate) async fn send(&self, message: Message) {
        let _ = self.sender.send(AgentMessage { message: Some(message) }).await;
    }

    /// Drops the message if there is no room.
    pub(crate) fn offer(&self, message: Message) {
        let _ = self.sender.try_send(AgentMessage { message: Some(message) });
    }
}
