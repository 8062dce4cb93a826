//! The restore page: choose, see the plan, confirm, go.
//!
//! Must stay true: nothing is started that was not shown: the plan's digest goes along, and the controller
//! refuses a plan that no longer says the same.

use askama::Template;
use axum::body::Bytes;
use axum::response::Response;
use proto::Failure;
use proto::convert::privilege_word;
use proto::v1::agents_client::AgentsClient;
use proto::v1::jobs_client::JobsClient;
use proto::v1::{
    Backup, GetBackupRequest, ListAgentsRequest, ListBackupsRequest, PlanRestoreRequest, Rename, RestorePlan,
    Selection, SourcePlan, StartRestoreRequest,
};
use uuid::Uuid;

use crate::web::backups::{Line, line};
use crate::web::form::Form;
use crate::web::site::{Asked, Frame, redirect, render};
use crate::web::text::{counted, listed, size, source_words, span};

/// As many backups as there are to choose from at once; older ones are chosen in the calendar.
const OFFERED: u32 = 100;
/// As many names as are shown of each kind of change in one place.
const NAMES: usize = 8;

#[derive(Template)]
#[template(path = "restore.html")]
struct Choose {
    frame: Frame,
    backups: Vec<Line>,
    chosen: Option<Chosen>,
}

/// A backup to restore from, and what of it.
struct Chosen {
    line: Line,
    /// It holds databases of a server, or objects of a cluster: then there is more to choose.
    has_databases: bool,
    has_configs: bool,
    has_chains: bool,
    /// What somebody chose on the page before: a component, paths in it, databases and collections.
    component: String,
    paths: String,
    include: String,
    /// Other agents than the one that serves the data.
    agents: Vec<String>,
}

impl Chosen {
    fn new(asked: &Asked, backup: &Backup, agents: Vec<String>) -> Self {
        let text = |name| asked.query.get(name).to_owned();
        let has = |kind: &str| backup.archives.iter().any(|archive| archive.kind == kind);
        Self {
            line: line(backup, asked.site.app.now()),
            has_databases: has("mongodb"),
            has_configs: has("configs"),
            has_chains: has("blockchain"),
            component: text("component"),
            paths: text("path"),
            include: text("include"),
            agents,
        }
    }

    /// Something beyond the components was chosen already.
    fn is_of_parts(&self) -> bool {
        !self.paths.is_empty()
    }
}

pub(super) async fn choose(asked: Asked) -> Response {
    let made = choice(&asked).await;
    asked.answer(made)
}

async fn choice(asked: &Asked) -> Result<Response, Failure> {
    let listed = ListBackupsRequest { limit: OFFERED, ..ListBackupsRequest::default() };
    let mut backups = asked.backups().list_backups(listed).await?.into_inner().backups;
    let mut wanted = asked.query.get("backup").to_owned();
    // Whoever comes from an old one gets that and no other.
    if !wanted.is_empty() && backups.iter().all(|backup| backup.name != wanted) {
        let found = asked.backups().get_backup(GetBackupRequest { name: wanted }).await?.into_inner();
        // "latest" is one of them by its name.
        wanted = found.name.clone();
        if backups.iter().all(|backup| backup.name != wanted) {
            backups.push(found);
        }
    }
    let now = asked.site.app.now();
    let mut lines: Vec<Line> = backups.iter().map(|backup| line(backup, now)).collect();
    // The newest first, and before all others those that are known to be whole.
    lines.sort_by_key(|line| !line.is_verified);
    let name = if wanted.is_empty() { lines.first().map(|line| line.name.clone()) } else { Some(wanted) };
    let chosen = name.and_then(|name| backups.iter().find(|backup| backup.name == name));
    let listed =
        AgentsClient::new(asked.caller.clone()).list_agents(ListAgentsRequest {}).await?.into_inner();
    let agents = listed.agents.into_iter().filter(|agent| agent.connected && !agent.revoked);
    let agents = agents.map(|agent| agent.name).collect();
    let chosen = chosen.map(|backup| Chosen::new(asked, backup, agents));
    render(&Choose { frame: asked.frame("Restore"), backups: lines, chosen })
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
    /// What gives somebody rights, and whether it is restored.
    privileges: Vec<String>,
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

/// The lines of a field, without empty ones. They are as they were written: the name of a file may begin and
/// end with spaces.
fn lines<'a>(form: &'a Form, name: &str) -> impl Iterator<Item = &'a str> {
    form.get(name).lines().filter(|line| !line.is_empty())
}

/// A name with another one, as it is written.
fn pair(rename: &Rename) -> String {
    format!("{}={}", rename.from, rename.to)
}

/// What a form asks for.
fn request(form: &Form) -> PlanRestoreRequest {
    PlanRestoreRequest {
        backup: form.get("backup").to_owned(),
        components: form.all("component").map(str::to_owned).collect(),
        selection: Some(Selection {
            globs: lines(form, "paths").map(str::to_owned).collect(),
            include: lines(form, "include")
                .map(|line| line.trim().to_owned())
                .filter(|line| !line.is_empty())
                .collect(),
            // What is no pair goes on as it is: the controller says what is wrong with it.
            renames: lines(form, "rename")
                .filter(|line| !line.trim().is_empty())
                .map(|line| line.split_once('=').unwrap_or((line, "")))
                .map(|(from, to)| Rename { from: from.trim().to_owned(), to: to.trim().to_owned() })
                .collect(),
            drop_others: form.has("drop_others"),
            to_namespace: form.get("to_namespace").trim().to_owned(),
            force_conflicts: form.has("force_conflicts"),
            signer_height: height(form.get("signer_height").trim()),
            with_keys: form.has("with_keys"),
        }),
        folder: form.get("folder").trim().to_owned(),
        agent: form.get("agent").trim().to_owned(),
        without_privileges: form.has("without_privileges"),
        accept_doubts: form.has("accept_doubts"),
        without_safety_backup: form.has("without_safety_backup"),
        undo_of: form.get("undo_of").to_owned(),
    }
}

/// A stated height; what is no number is one that no chain has, so that the plan refuses it.
fn height(text: &str) -> Option<u64> {
    (!text.is_empty()).then(|| text.parse().unwrap_or(u64::MAX))
}

/// The same as fields of the next form.
fn fields(request: &PlanRestoreRequest) -> Vec<(&'static str, String)> {
    let mut fields = vec![("backup", request.backup.clone()), ("undo_of", request.undo_of.clone())];
    fields.extend(request.components.iter().map(|component| ("component", component.clone())));
    let of = request.selection.clone().unwrap_or_default();
    fields.extend([
        ("paths", of.globs.join("\n")),
        ("include", of.include.join("\n")),
        ("rename", of.renames.iter().map(pair).collect::<Vec<_>>().join("\n")),
        ("to_namespace", of.to_namespace),
        ("folder", request.folder.clone()),
        ("agent", request.agent.clone()),
        ("signer_height", of.signer_height.map(|height| height.to_string()).unwrap_or_default()),
    ]);
    for (name, is_set) in [
        ("drop_others", of.drop_others),
        ("force_conflicts", of.force_conflicts),
        ("with_keys", of.with_keys),
        ("without_privileges", request.without_privileges),
        ("accept_doubts", request.accept_doubts),
        ("without_safety_backup", request.without_safety_backup),
    ] {
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
    let of = request.selection.clone().unwrap_or_default();
    if request.undo_of.is_empty() {
        let renames: Vec<String> = of.renames.iter().map(pair).collect();
        let components = [request.components.join(",")];
        let [namespace, folder, agent] =
            [&of.to_namespace, &request.folder, &request.agent].map(|one| [one.clone()]);
        let height = of.signer_height.map(|height| height.to_string());
        for (flag, values) in [
            ("--components", &components[..]),
            ("--path", &of.globs),
            ("--include", &of.include),
            ("--rename", &renames),
            ("--to-namespace", &namespace),
            ("--to", &folder),
            ("--to-agent", &agent),
            ("--signer-height", height.as_slice()),
        ] {
            for value in values.iter().filter(|value| !value.is_empty()) {
                words.extend([flag.to_owned(), quoted(value)]);
            }
        }
    }
    for (flag, is_set) in [
        ("--drop-others", of.drop_others),
        ("--force-conflicts", of.force_conflicts),
        ("--with-keys", of.with_keys && request.undo_of.is_empty()),
        ("--no-privileges", request.without_privileges),
        ("--no-safety-backup", request.without_safety_backup),
        ("--accept-doubts", request.accept_doubts),
    ] {
        if is_set {
            words.push(flag.to_owned());
        }
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

fn place(plan: &SourcePlan, granted: bool) -> Place {
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
    // The largest number: nobody knows.
    let free = match plan.free_bytes {
        u64::MAX => "how much is free is not known".to_owned(),
        free => format!("{} are free", size(free)),
    };
    let sums = format!(
        "{}, {}; needs {} beside what is there, {free}",
        counted(plan.entries, "entry", "entries"),
        size(plan.bytes),
        size(plan.needed_bytes),
    );
    let privileges = plan.privileges.iter().map(|held| {
        let names = held.names.iter().take(NAMES).cloned().collect::<Vec<_>>().join(", ");
        let more = if held.count > NAMES as u64 { ", …" } else { "" };
        let word = if granted { "is restored" } else { "is left out" };
        format!("{} ({}) {word}: {names}{more}", privilege_word(held.privilege()), held.count)
    });
    Place {
        component,
        path: plan.place.clone(),
        sums,
        stops: stops.collect(),
        changes,
        obstacles: plan.obstacles.clone(),
        leaves: plan.leaves.clone(),
        remarks: plan.remarks.clone(),
        privileges: privileges.collect(),
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
    let places: Vec<Place> =
        plan.sources.iter().map(|source| place(source, !wanted.without_privileges)).collect();
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
    fn the_spaces_of_a_file_name_belong_to_it() {
        let wanted = request(&Form::parse(b"component=data&paths=+x%0D%0Ax+%0D%0A%0D%0A&include=+shop+%0A+"));
        let of = wanted.selection.clone().expect("a selection");
        assert_eq!((of.globs, of.include), (vec![" x".to_owned(), "x ".to_owned()], vec!["shop".to_owned()]));
        let mut written = form_urlencoded::Serializer::new(String::new());
        written.extend_pairs(fields(&wanted));
        assert_eq!(request(&Form::parse(written.finish().as_bytes())), wanted, "nothing is lost on the way");
    }

    #[test]
    fn databases_have_choices_of_their_own() {
        let text = b"backup=20260101_010000&component=database&include=shop.*%0Aold&rename=shop%3Dshop_2026\
            &drop_others=yes&without_privileges=yes";
        let wanted = request(&Form::parse(text));
        let of = wanted.selection.clone().expect("a selection");
        assert_eq!((of.include, of.drop_others), (vec!["shop.*".to_owned(), "old".to_owned()], true));
        assert_eq!(of.renames, [Rename { from: "shop".to_owned(), to: "shop_2026".to_owned() }]);
        let mut written = form_urlencoded::Serializer::new(String::new());
        written.extend_pairs(fields(&wanted));
        assert_eq!(request(&Form::parse(written.finish().as_bytes())), wanted, "nothing is lost on the way");
        assert_eq!(
            command(&wanted, "20260101_010000"),
            "nsctl restore --timestamp 20260101_010000 --components database --include 'shop.*' --include old \
             --rename 'shop=shop_2026' --drop-others --no-privileges"
        );
    }

    #[test]
    fn what_takes_a_restore_back_is_another_command() {
        let wanted = request(&Form::parse(b"undo_of=01&accept_doubts=yes"));
        assert_eq!(command(&wanted, "20260101_010000"), "nsctl undo 01 --accept-doubts");
    }
}
