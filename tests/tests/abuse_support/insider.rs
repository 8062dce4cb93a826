//! An agent with a right certificate and an order of the controller's, that means harm all the same.

use std::time::Duration;

use bytes::Bytes;
use proto::v1::agent_gateway_client::AgentGatewayClient;
use proto::v1::agent_message::Message as Up;
use proto::v1::controller_message::Message as Down;
use proto::v1::{
    AgentMessage, BlobTables, ControllerMessage, Heartbeat, Hello, ListBlobsRequest, PutSegmentRequest,
    ServedSource, StartArchive,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::{Identity, Target};

/// Between two messages of those that say next to nothing, for as long as they are listened to.
const DRIP: Duration = Duration::from_millis(200);

/// A connected agent.
pub struct Insider {
    gateway: AgentGatewayClient<Channel>,
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<ControllerMessage>,
}

impl Insider {
    /// Says that it serves `source`, and is welcomed.
    pub async fn connect(target: &Target, identity: &Identity, source: &str) -> Self {
        // Its streams last for longer than any answer that the other attacks wait for.
        let channel = target.channel_for(Some(identity), Duration::from_secs(300)).await.expect("connected");
        let mut gateway = AgentGatewayClient::new(channel);
        let (up, messages) = mpsc::channel(4);
        let source = source.parse().expect("a source");
        let served = ServedSource {
            source: Some(proto::convert::to_wire_source(&source)),
            kind: "files".into(),
            location: "/somewhere".into(),
        };
        let hello = Hello {
            version: "1".into(),
            protocol: 1,
            host: "mallory".into(),
            sources: vec![served],
            instance: vec![6; 16].into(),
            opens: Vec::new(),
        };
        up.try_send(AgentMessage { message: Some(Up::Hello(hello)) }).expect("room");
        let down = gateway.control(ReceiverStream::new(messages)).await.expect("let in").into_inner();
        Self { gateway, up, down }
    }

    /// The order that a backup brings; from then on it says that it is at work.
    pub async fn order(&mut self) -> StartArchive {
        loop {
            let message = self.down.message().await.expect("the stream is open").expect("more comes");
            if let Some(Down::StartArchive(order)) = message.message {
                tokio::spawn(beat(self.up.clone(), order.task_id.clone()));
                return order;
            }
        }
    }

    fn head(task: &str, segment: u8, length: u64) -> PutSegmentRequest {
        PutSegmentRequest {
            task_id: task.to_owned(),
            segment_id: vec![segment; 16].into(),
            length,
            data: Bytes::new(),
        }
    }

    /// Announces little and sends for ever: how it was refused.
    pub async fn longer_than_announced(&self, task: &str) -> Status {
        let (messages, stream) = mpsc::channel(4);
        let head = Self::head(task, 1, 64 << 10);
        let flood = async move {
            let mut next = head;
            while messages.send(next).await.is_ok() {
                next = PutSegmentRequest { data: vec![0; 256 << 10].into(), ..PutSegmentRequest::default() };
            }
        };
        let mut gateway = self.gateway.clone();
        let call = gateway.put_segment(ReceiverStream::new(stream));
        let (answer, ()) = tokio::join!(call, flood);
        answer.expect_err("it is longer than was announced")
    }

    /// Announces a segment and lets it drip, a byte at a time: how it was refused.
    pub async fn dripping(&self, task: &str, segment: u8) -> Status {
        let (messages, stream) = mpsc::channel(4);
        let head = Self::head(task, segment, 64 << 10);
        let drip = async move {
            let mut next = head;
            while messages.send(next).await.is_ok() {
                tokio::time::sleep(DRIP).await;
                next = PutSegmentRequest { data: Bytes::from_static(&[0]), ..PutSegmentRequest::default() };
            }
        };
        let mut gateway = self.gateway.clone();
        let call = gateway.put_segment(ReceiverStream::new(stream));
        let (answer, ()) = tokio::join!(call, drip);
        answer.expect_err("a segment that drips is refused")
    }

    /// Asks for the list of blobs `count` times at once and reads no answer: the streams, kept open.
    pub async fn unread(&self, task: &str, count: usize) -> Vec<Streaming<BlobTables>> {
        let mut asked = JoinSet::new();
        for _ in 0..count {
            let mut gateway = self.gateway.clone();
            let request = ListBlobsRequest { task_id: task.to_owned(), ..ListBlobsRequest::default() };
            asked.spawn(async move {
                tokio::time::timeout(Duration::from_secs(2), gateway.list_blobs(request)).await
            });
        }
        let answered = asked.join_all().await.into_iter().flatten().flatten();
        answered.map(tonic::Response::into_inner).collect()
    }
}

/// Says again and again that the task is under way, until nobody listens.
async fn beat(up: mpsc::Sender<AgentMessage>, task: String) {
    let beat = || Heartbeat { running_tasks: vec![task.clone()] };
    while up.send(AgentMessage { message: Some(Up::Heartbeat(beat())) }).await.is_ok() {
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
}
