use proto::v1::Probe;

use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn probe(task: TaskId) -> Message {
    Message::Probe(Probe { task_id: task.to_string() })
}

fn begin(fleet: &Fleet, agent: AgentId) -> RunningTask {
    let task = TaskId::fresh();
    fleet.begin(agent, task, TaskContext::Probe, probe(task)).expect("connected")
}

#[tokio::test]
async fn a_task_ends_as_lost_when_its_connection_breaks() {
    let fleet = Fleet::new();
    let agent = AgentId::fresh();
    let (connection, mut messages) = fleet.connect(agent, Instance::new([0; 16]), vec![], NOW).expect("room");
    let mut task = begin(&fleet, agent);
    assert!(matches!(
        messages.recv().await,
        Some(Ok(ControllerMessage { message: Some(Message::Probe(_)) }))
    ));
    drop(connection);
    assert!(matches!(task.ended().await, Ended::AgentLost));
    let task = TaskId::fresh();
    assert!(fleet.begin(agent, task, TaskContext::Probe, probe(task)).is_err());
}

#[tokio::test]
async fn the_newest_connection_wins_and_the_older_ones_end_does_not_touch_it() {
    let fleet = Fleet::new();
    let agent = AgentId::fresh();
    let (older, _old_messages) = fleet.connect(agent, Instance::new([0; 16]), vec![], NOW).expect("room");
    let mut old_task = begin(&fleet, agent);
    let (_newer, _messages) = fleet.connect(agent, Instance::new([0; 16]), vec![], NOW).expect("room");
    assert!(older.cut().is_cancelled());
    assert!(matches!(old_task.ended().await, Ended::AgentLost));
    let mut task = begin(&fleet, agent);
    drop(older);
    assert!(fleet.is_connected(agent));
    assert!(fleet.end(agent, task.id, Ended::Probed(Box::default())));
    assert!(matches!(task.ended().await, Ended::Probed(_)));
}

#[tokio::test]
async fn a_task_can_be_touched_by_its_own_agent_only() {
    let fleet = Fleet::new();
    let (agent, other) = (AgentId::fresh(), AgentId::fresh());
    let (_line, _messages) = fleet.connect(agent, Instance::new([0; 16]), vec![], NOW).expect("room");
    let (_other_line, _other_messages) =
        fleet.connect(other, Instance::new([0; 16]), vec![], NOW).expect("room");
    let task = begin(&fleet, agent);
    assert!(fleet.task(other, task.id).is_none());
    assert!(!fleet.end(other, task.id, Ended::Cancelled));
    assert!(fleet.task(agent, task.id).is_some());
}

#[tokio::test]
async fn an_agent_that_ends_a_task_on_its_own_gets_no_more_until_it_is_back() {
    let fleet = Fleet::new();
    let agent = AgentId::fresh();
    let (line, _messages) = fleet.connect(agent, Instance::new([0; 16]), vec![], NOW).expect("room");
    let (asked, mut other) = (begin(&fleet, agent), begin(&fleet, agent));
    let mut unasked = begin(&fleet, agent);
    fleet.cancel(asked.id);
    fleet.end(agent, asked.id, Ended::Cancelled);
    assert!(fleet.is_connected(agent));
    fleet.end(agent, unasked.id, Ended::Cancelled);
    assert!(!fleet.is_connected(agent) && line.cut().is_cancelled());
    assert!(matches!(unasked.ended().await, Ended::Cancelled));
    assert!(matches!(other.ended().await, Ended::AgentLost));
    let (_line, _messages) = fleet.connect(agent, Instance::new([0; 16]), vec![], NOW).expect("room");
    drop(line);
    assert!(fleet.is_connected(agent));
}

#[tokio::test]
async fn a_task_that_nobody_waits_for_is_ended_at_the_agent() {
    let fleet = Fleet::new();
    let agent = AgentId::fresh();
    let (_line, mut messages) = fleet.connect(agent, Instance::new([0; 16]), vec![], NOW).expect("room");
    let task = begin(&fleet, agent);
    let id = task.id;
    messages.recv().await.expect("the probe").expect("a message");
    drop(task);
    let message = messages.recv().await.expect("the cancellation").expect("a message").message;
    assert_eq!(message, Some(Message::Cancel(CancelTask { task_id: id.to_string() })));
    assert!(fleet.task(agent, id).is_none());
}

#[tokio::test]
async fn an_agent_that_does_not_take_its_messages_is_cut_off() {
    let fleet = Fleet::new();
    let agent = AgentId::fresh();
    let (line, _messages) = fleet.connect(agent, Instance::new([0; 16]), vec![], NOW).expect("room");
    let mut tasks = Vec::new();
    while !line.cut().is_cancelled() {
        assert!(tasks.len() <= QUEUE, "the queue has a limit");
        let task = TaskId::fresh();
        tasks.push(fleet.begin(agent, task, TaskContext::Probe, probe(task)));
    }
    assert!(tasks.last().is_some_and(Result::is_err));
}

#[tokio::test]
async fn tasks_of_an_earlier_life_are_ended() {
    let fleet = Fleet::new();
    let agent = AgentId::fresh();
    let (_line, mut messages) = fleet.connect(agent, Instance::new([0; 16]), vec![], NOW).expect("room");
    let stranger = TaskId::fresh();
    fleet.cancel_strangers(agent, &[stranger.to_string(), "nonsense".into()]);
    let message = messages.recv().await.expect("told").expect("a message").message;
    assert_eq!(message, Some(Message::Cancel(CancelTask { task_id: stranger.to_string() })));
}

#[tokio::test]
async fn what_an_agent_says_it_opens_gives_it_nobody_elses_data() {
    let fleet = Fleet::new();
    let agent = AgentId::fresh();
    let source = |text: &str| text.parse::<SourceId>().expect("a source");
    let served = |text: &str| ServedSource {
        source: source(text),
        kind: "files".to_owned(),
        location: "/somewhere".to_owned(),
    };
    let (line, _messages) = fleet
        .connect(agent, Instance::new([0; 16]), vec![served("models/a"), served("configs/c")], NOW)
        .expect("room");
    let opens = |component: &str, name: Option<&str>| Opens {
        component: component.parse().expect("a component"),
        name: name.map(|name| name.parse().expect("a name")),
    };
    let openers = vec![opens("models", None), opens("blockchain", Some("main"))];
    let given = |texts: [&str; 5]| texts.map(|text| fleet.connected()[0].opens(&source(text)));
    let asked = ["models/a", "models/b", "configs/c", "blockchain/main", "blockchain/side"];
    assert_eq!(given(asked), [false; 5], "nothing was said");
    fleet.mark(agent, line.number() + 1, openers.clone(), true);
    assert_eq!(given(asked), [false; 5], "that is another connection");
    fleet.mark(agent, line.number(), openers.clone(), false);
    assert_eq!(given(asked), [true, false, false, false, false], "what it serves and opens");
    fleet.mark(agent, line.number(), openers, true);
    assert_eq!(given(asked), [true, true, false, true, false], "whoever serves it");
    // Another agent serves it from now on.
    fleet.mark(agent, line.number(), vec![opens("models", None)], false);
    let other = AgentId::fresh();
    let (_other, _more) =
        fleet.connect(other, Instance::new([1; 16]), vec![served("models/a")], NOW).expect("room");
    assert!(fleet.connected().iter().all(|one| !one.opens(&source("models/a"))));
}
