//! The restore page: choose, see the plan, confirm, go.
//!
//! Must stay true: nothing is started that was not shown: the plan's digest goes along, and the controller
//! refuses a plan that no longer says the same.

use askama::Template;
use axum::body::Bytes;
use axum::response::Response;
use proto::Failure;
use proto::v1::backups_client::BackupsClient;
use proto::v1::jobs_client::JobsClient;
use proto::v1::{
    ListBackupsRequest, PlanRestoreRequest, RestorePlan, Selection, SourcePlan, StartRestoreRequest,
};
use uuid::Uuid;

use crate::web::backups::{Line, line};
use crate::web::form::Form;
use crate::web::site::{Asked, Frame, redirect, render};
use crate::web::text::{counted, listed, size, source_words, span};

/// As many names as are shown of each kind of change in one place.
const NAMES: usize = 8;

#[derive(Template)]
#[template(path = "restore.html")]
struct Choose {
    frame: Frame,
    backups: Vec<Line>,
    chosen: Option<Line>,
}

pub(super) async fn choose(asked: Asked) -> Response {
    let made = choice(&asked).await;
    asked.answer(made)
}

async fn choice(asked: &Asked) -> Result<Response, Failure> {
    let mut client = BackupsClient::new(asked.caller.clone());
    let listed = client.list_backups(ListBackupsRequest::default()).await?.into_inner();
    let now = asked.site.app.now();
    let mut backups: Vec<Line> = listed.backups.iter().map(|backup| line(backup, now)).collect();
    // The newest first, and before all others those that are known to be whole.
    backups.sort_by_key(|line| !line.is_verified);
    let wanted = asked.query.get("backup");
    let chosen = backups.iter().find(|line| line.name == wanted).or(backups.first()).cloned();
    render(&Choose { frame: asked.frame("Restore"), backups, chosen })
}

/// One place of a plan.
struct Place {
    component: String,
    path: String,
    sums: String,
    stops: Vec<String>,
    changes: Vec<Change>,
    obstacles: Vec<String>,
    /// What stays there as it is.
    leaves: String,
    remarks: Vec<String>,
}

struct Change {
    what: &'static str,
    count: u64,
    names: String,
}

#[derive(Template)]
#[template(path = "plan.html")]
struct Planned {
    frame: Frame,
    backup: String,
    undo_of: String,
    places: Vec<Place>,
    doubts: Vec<String>,
    remarks: Vec<String>,
    safety: String,
    estimate: String,
    fetch: String,
    command: String,
    can_go: bool,
    digest: String,
    request_id: String,
    fields: Vec<(&'static str, String)>,
    confirm_wrong: bool,
}

/// What a form asks for.
fn request(form: &Form) -> PlanRestoreRequest {
    let globs = form.get("paths").lines().map(str::trim).filter(|line| !line.is_empty());
    PlanRestoreRequest {
        backup: form.get("backup").to_owned(),
        components: form.all("component").map(str::to_owned).collect(),
        selection: Some(Selection { globs: globs.map(str::to_owned).collect(), ..Selection::default() }),
        folder: form.get("folder").trim().to_owned(),
        accept_doubts: form.has("accept_doubts"),
        without_safety_backup: form.has("without_safety_backup"),
        undo_of: form.get("undo_of").to_owned(),
        ..PlanRestoreRequest::default()
    }
}

/// The same as fields of the next form.
fn fields(request: &PlanRestoreRequest) -> Vec<(&'static str, String)> {
    let mut fields = vec![("backup", request.backup.clone()), ("undo_of", request.undo_of.clone())];
    fields.extend(request.components.iter().map(|component| ("component", component.clone())));
    let globs = request.selection.as_ref().map(|selection| selection.globs.join("\n"));
    fields.push(("paths", globs.unwrap_or_default()));
    fields.push(("folder", request.folder.clone()));
    for (name, is_set) in
        [("accept_doubts", request.accept_doubts), ("without_safety_backup", request.without_safety_backup)]
    {
        fields.push((name, if is_set { "yes".to_owned() } else { String::new() }));
    }
    fields.retain(|(_, value)| !value.is_empty());
    fields
}

/// The same as a command.
fn command(request: &PlanRestoreRequest, backup: &str) -> String {
    let mut words = match request.undo_of.is_empty() {
        false => vec!["nsctl".to_owned(), "undo".to_owned(), quoted(&request.undo_of)],
        true => vec!["nsctl".to_owned(), "restore".to_owned(), "--timestamp".to_owned(), quoted(backup)],
    };
    if request.undo_of.is_empty() {
        if !request.components.is_empty() {
            words.extend(["--components".to_owned(), quoted(&request.components.join(","))]);
        }
        for glob in request.selection.iter().flat_map(|selection| &selection.globs) {
            words.extend(["--path".to_owned(), quoted(glob)]);
        }
        if !request.folder.is_empty() {
            words.extend(["--to".to_owned(), quoted(&request.folder)]);
        }
    }
    if request.without_safety_backup {
        words.push("--no-safety-backup".to_owned());
    }
    if request.accept_doubts {
        words.push("--accept-doubts".to_owned());
    }
    words.join(" ")
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

fn place(plan: &SourcePlan) -> Place {
    let source = plan.source.clone().unwrap_or_default();
    let component = source_words(&source);
    let change = |what, count, names: &[String]| {
        let shown = names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
        let names = if count > NAMES as u64 { format!("{shown}, …") } else { shown };
        Change { what, count, names }
    };
    let mut changes = vec![
        change("replaced", plan.replaced_count, &plan.replaced),
        change("new", plan.created_count, &plan.created),
        change("removed", plan.removed_count, &plan.removed),
    ];
    changes.retain(|change| change.count > 0);
    let stops = plan.stops.iter().map(|stop| match stop.running {
        true => format!("{} ({}) is stopped and started again", stop.name, stop.kind),
        false => format!("{} ({}) does not run now and stays so", stop.name, stop.kind),
    });
    let sums = format!(
        "{}, {}; needs {} beside what is there, {} are free",
        counted(plan.entries, "entry", "entries"),
        size(plan.bytes),
        size(plan.needed_bytes),
        size(plan.free_bytes)
    );
    Place {
        component,
        path: plan.place.clone(),
        sums,
        stops: stops.collect(),
        changes,
        obstacles: plan.obstacles.clone(),
        leaves: plan.leaves.clone(),
        remarks: plan.remarks.clone(),
    }
}

pub(super) async fn plan(asked: Asked, body: Bytes) -> Response {
    let made = match asked.form(&body) {
        Ok(form) => planned(&asked, &form, false).await,
        Err(failure) => Err(failure),
    };
    asked.answer(made)
}

async fn planned(asked: &Asked, form: &Form, confirm_wrong: bool) -> Result<Response, Failure> {
    let mut wanted = request(form);
    if wanted.components.is_empty() && wanted.undo_of.is_empty() {
        return Err(Failure::invalid("no component is chosen").hint("go back and choose one at least"));
    }
    let plan = JobsClient::new(asked.caller.clone()).plan_restore(wanted.clone()).await?.into_inner();
    if wanted.undo_of.is_empty() {
        wanted.backup.clone_from(&plan.backup);
    }
    render(&shown(asked, &wanted, plan, confirm_wrong))
}

fn shown(asked: &Asked, wanted: &PlanRestoreRequest, plan: RestorePlan, confirm_wrong: bool) -> Planned {
    let places: Vec<Place> = plan.sources.iter().map(place).collect();
    let is_free = places.iter().all(|place| place.obstacles.is_empty());
    let can_go = is_free && (plan.doubts.is_empty() || wanted.accept_doubts);
    let safety = match plan.safety_components.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => String::new(),
        ref components => {
            let days = i64::try_from(plan.safety_seconds).unwrap_or(i64::MAX);
            format!("{}, kept for {}", listed(components), span(days))
        }
    };
    let estimate = match i64::try_from(plan.estimated_seconds).unwrap_or(i64::MAX) {
        0 => "not known: nothing was restored yet".to_owned(),
        seconds => format!("about {}", span(seconds)),
    };
    Planned {
        frame: asked.frame("Plan of a restore"),
        command: command(wanted, &plan.backup),
        undo_of: wanted.undo_of.clone(),
        places,
        safety,
        estimate,
        fetch: size(plan.fetch_bytes),
        can_go,
        fields: fields(wanted),
        request_id: Uuid::now_v7().to_string(),
        backup: plan.backup,
        doubts: plan.doubts,
        remarks: plan.remarks,
        digest: plan.digest,
        confirm_wrong,
    }
}

pub(super) async fn start(asked: Asked, body: Bytes) -> Response {
    let made = match asked.form(&body) {
        Ok(form) => started(&asked, &form).await,
        Err(failure) => Err(failure),
    };
    asked.answer(made)
}

async fn started(asked: &Asked, form: &Form) -> Result<Response, Failure> {
    if form.get("confirm").trim() != form.get("confirms") {
        return planned(asked, form, true).await;
    }
    let order = StartRestoreRequest {
        request: Some(request(form)),
        digest: form.get("digest").to_owned(),
        request_id: form.get("request_id").to_owned(),
    };
    let job = JobsClient::new(asked.caller.clone()).start_restore(order).await?.into_inner();
    Ok(redirect(&format!("{}jobs/{}", asked.site.base, job.id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_the_same_as_a_form_and_as_a_command() {
        let text =
            b"backup=20260101_010000&component=models&component=configs&paths=a%2F*%0D%0A%0D%0Ait's&folder=";
        let wanted = request(&Form::parse(text));
        assert_eq!(wanted.components, ["models", "configs"]);
        let mut written = form_urlencoded::Serializer::new(String::new());
        written.extend_pairs(fields(&wanted));
        assert_eq!(request(&Form::parse(written.finish().as_bytes())), wanted, "nothing is lost on the way");
        assert_eq!(
            command(&wanted, "20260101_010000"),
            "nsctl restore --timestamp 20260101_010000 --components models,configs --path 'a/*' --path 'it'\\''s'"
        );
    }

    #[test]
    fn what_takes_a_restore_back_is_another_command() {
        let wanted = request(&Form::parse(b"undo_of=01&accept_doubts=yes"));
        assert_eq!(command(&wanted, "20260101_010000"), "nsctl undo 01 --accept-doubts");
    }
}
