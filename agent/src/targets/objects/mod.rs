//! Puts objects back into a Kubernetes cluster, by server-side apply under a manager's name of our own.
//!
//! [`plan`] asks the cluster for each object what would come of it (a dry run): so rights, quotas, webhooks and
//! the owners of fields have said what they say before anything is changed. [`restore`] then applies one object
//! after the other. Where one fails, those before it are applied as they were.
//!
//! Must stay true: a field that somebody else has set is not taken over unless that was asked for; nothing of
//! the values reaches a plan, a report, an error or a log; an object that is not in the archive stays.
//!
//! A cluster has no swap of several objects at once, and what they were is kept in memory alone, since a Secret
//! must not lie in a file. A process that dies in the middle is followed by the same order once more, which
//! ends it: every step may be repeated.

mod differ;
mod error;
mod select;

use std::collections::{BTreeMap, BTreeSet};

use repository::archive::entry::{Entry, EntryKind, FileContent};
use repository::archive::path::EntryPath;
use runtime::steps;
use serde_json::Value;
use tokio::runtime::Handle;

use super::Progress;
use super::mongodb::archive::{Contents, checked};
use crate::kubernetes::{Change, Chosen, Cluster, Place, Resource, Trouble, text_at};
use crate::sources::configs::tidied;
use crate::steps::Step;
pub(crate) use error::ObjectsError;
pub(crate) use select::{Name, Part, Wanted};

/// No object is larger: the API takes none beyond 3 MiB.
const MOST_BYTES: u64 = 8 << 20;
/// What is changed is kept in memory until it is sure that it is not taken back; so much, not more.
const MOST_KEPT: u64 = 64 << 20;
/// More objects are not restored at once.
const MOST_OBJECTS: usize = 100_000;

/// An object that is restored.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    path: EntryPath,
    part: Part,
    resource: Resource,
    pub(crate) target: Name,
}

/// What a restore would do.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What is made or changed, in the order of the archive.
    pub(crate) planned: Vec<Planned>,
    pub(crate) created: Vec<String>,
    /// With the names of what changes.
    pub(crate) changed: Vec<String>,
    pub(crate) same: u64,
    pub(crate) bytes: u64,
    pub(crate) obstacles: Vec<String>,
    pub(crate) remarks: Vec<String>,
}

/// What a restore did.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) objects: u64,
    pub(crate) bytes: u64,
    pub(crate) created: u64,
    pub(crate) changed: u64,
}

/// A cluster, and what an archive is read with.
pub(crate) struct Tools<'a, 'b> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) runtime: &'a Handle,
    pub(crate) contents: &'a mut Contents<'b>,
}

impl Tools<'_, '_> {
    fn archived(
        &mut self,
        path: &EntryPath,
        content: &FileContent,
        name: &Name,
    ) -> Result<Value, ObjectsError> {
        let wrong = |why: &str| ObjectsError::Damaged(format!("{path} {why}"));
        if content.size > MOST_BYTES {
            return Err(wrong("is larger than any object"));
        }
        let mut bytes = Vec::new();
        self.contents.read(path, content, &mut |piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        let object: Value = serde_json::from_slice(&bytes).map_err(|_| wrong("is no object"))?;
        match name.is_of(&object) {
            true => Ok(object),
            false => Err(wrong("is not the object that its path names")),
        }
    }

    fn get(&self, resource: &Resource, target: &Name) -> Result<Option<Value>, Trouble> {
        let place = Place { resource, namespace: &target.namespace, name: &target.name };
        self.runtime.block_on(self.cluster.get(&place))
    }

    fn patch(
        &self,
        (resource, target): (&Resource, &Name),
        how: (Change, bool),
        body: &Value,
    ) -> Result<Value, Trouble> {
        let place = Place { resource, namespace: &target.namespace, name: &target.name };
        self.runtime.block_on(self.cluster.patch(&place, how, body))
    }
}

/// What a restore of what is `wanted` would do. Nothing is changed. Blocks.
pub(crate) fn plan<E>(
    wanted: &Wanted,
    entries: impl Iterator<Item = Result<Entry, E>>,
    tools: &mut Tools<'_, '_>,
) -> Result<Plan, ObjectsError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut plan = Plan { obstacles: wanted.faults(), ..Plan::default() };
    let (mut kinds, mut taken, mut kept) = (BTreeMap::new(), BTreeSet::new(), 0);
    // Files that are no objects: the archive is of another kind.
    let mut others = 0_u64;
    for entry in checked(entries) {
        let entry = entry?;
        let EntryKind::File(content) = &entry.kind else { continue };
        let Some(name) = Name::of_file(&entry.path) else {
            others += 1;
            continue;
        };
        let Some(part) = wanted.part(&entry.path, &name) else { continue };
        let target = wanted.target(&name);
        if !taken.insert(target.clone()) {
            plan.obstacles.push(format!("two of what is restored would be {target}: choose one with --path"));
            continue;
        }
        if taken.len() > MOST_OBJECTS {
            return Err(ObjectsError::Refused(format!(
                "there are more than {MOST_OBJECTS} objects: choose fewer with --path"
            )));
        }
        let archived = tools.archived(&entry.path, content, &name)?;
        let resource = match kind_of(&archived, &name, &mut kinds, tools) {
            Ok(resource) => resource,
            Err(trouble @ (Trouble::NoKind(_) | Trouble::NotInNamespaces(_))) => {
                plan.obstacles
                    .push(format!("{target}: {trouble}; install what brings this kind, or leave it out"));
                continue;
            }
            Err(trouble) => return Err(ObjectsError::cluster(&target, trouble)),
        };
        let planned = Planned { path: entry.path.clone(), part, resource, target };
        look(wanted, planned, (&archived, content.size), &mut plan, &mut kept, tools)?;
    }
    let is_nothing = plan.planned.is_empty() && plan.obstacles.is_empty() && plan.same == 0;
    if is_nothing && (others > 0 || !wanted.is_everything()) {
        plan.obstacles.push("nothing in the archive matches; look at its paths with `nsctl ls`".to_owned());
    }
    if kept > MOST_KEPT {
        plan.obstacles.push(format!(
            "more than {} MiB of objects would change at once, which could not be taken back: restore some of them \
             after the others, with --path",
            MOST_KEPT >> 20
        ));
    }
    Ok(plan)
}

/// The kind of an object, as this cluster serves it.
fn kind_of(
    archived: &Value,
    name: &Name,
    known: &mut BTreeMap<(String, String), Resource>,
    tools: &Tools<'_, '_>,
) -> Result<Resource, Trouble> {
    match name.kind.as_str() {
        "ConfigMap" => return Ok(Resource::config_maps()),
        "Secret" => return Ok(Resource::secrets()),
        _ => {}
    }
    let (version, kind) =
        (text_at(archived, "/apiVersion").to_owned(), text_at(archived, "/kind").to_owned());
    if let Some(resource) = known.get(&(version.clone(), kind.clone())) {
        return Ok(resource.clone());
    }
    let (group, only_version) = version.split_once('/').unwrap_or(("", &version));
    let resource = tools.runtime.block_on(tools.cluster.kind(group, only_version, &kind))?;
    known.insert((version, kind), resource.clone());
    Ok(resource)
}

/// Asks the cluster what would come of one object.
fn look(
    wanted: &Wanted,
    planned: Planned,
    (archived, size): (&Value, u64),
    plan: &mut Plan,
    kept: &mut u64,
    tools: &Tools<'_, '_>,
) -> Result<(), ObjectsError> {
    let Planned { part, resource, target, .. } = &planned;
    let live = match tools.get(resource, target) {
        Ok(live) => live,
        Err(trouble @ Trouble::Forbidden { .. }) => {
            plan.obstacles.push(format!("{trouble}; {}", trouble.hint()));
            return Ok(());
        }
        Err(trouble) => return Err(ObjectsError::cluster(target, trouble)),
    };
    let tidy = live.clone().map(|live| tidied(live, resource));
    let desired = match differ::desired(archived, tidy.as_ref(), part, target) {
        Ok(desired) => desired,
        Err(missing) => {
            plan.obstacles.push(missing);
            return Ok(());
        }
    };
    let surplus = tidy.as_ref().map(|tidy| differ::surplus(&desired, tidy, target)).unwrap_or_default();
    let mut conflicts = live.as_ref().map(|live| differ::owners(live, &surplus)).unwrap_or_default();
    let tried = |force| tools.patch((resource, target), (Change::Apply { force }, true), &desired);
    let mut after = tried(wanted.force);
    if let Err(Trouble::Conflicts(found)) = &after {
        conflicts.extend(found.clone());
        after = tried(true);
    }
    let mut changed = Vec::new();
    if let (Some(tidy), Ok(after)) = (&tidy, &after) {
        changed = differ::differences(tidy, &tidied(after.clone(), resource));
        changed.extend(surplus.iter().map(|(field, key)| format!("{field}.{key}")));
        changed.sort();
        changed.dedup();
    } else if let Some(tidy) = &tidy {
        changed = differ::differences(tidy, &desired);
    }
    if let Some(why) = tidy.as_ref().and_then(|tidy| differ::fixed(&desired, tidy, &changed)) {
        plan.obstacles.push(format!("{target}: {why}"));
        return Ok(());
    }
    if let Err(trouble) = after {
        let told = match &trouble {
            Trouble::Refused { code: 404, .. } => {
                format!("there is no namespace {}: make it first", target.namespace)
            }
            trouble => format!("{trouble}; {}", trouble.hint()),
        };
        if !plan.obstacles.contains(&told) {
            plan.obstacles.push(told);
        }
        return Ok(());
    }
    if !conflicts.is_empty() && !wanted.force && !changed.is_empty() {
        conflicts.sort_by(|one, other| (&one.field, &one.manager).cmp(&(&other.field, &other.manager)));
        conflicts.dedup();
        let trouble = Trouble::Conflicts(conflicts);
        plan.obstacles.push(format!("{target}: {trouble}; {}", trouble.hint()));
    }
    match &live {
        Some(_) if changed.is_empty() => plan.same += 1,
        Some(_) if wanted.to_namespace.is_some() => plan.obstacles.push(format!(
            "{target} is there and differs ({}), and no backup of this source holds it: delete it, or choose another \
             namespace",
            changed.join(", ")
        )),
        Some(_) if !is_held(wanted, target, tools)? => plan.obstacles.push(format!(
            "{target} would change and is not in what the source backs up now, so that nothing could bring it back: \
             add its namespace, kind or label to the source, or delete it first"
        )),
        Some(live) => {
            *kept += live.to_string().len() as u64;
            plan.changed.push(format!("{target} ({})", changed.join(", ")));
        }
        None => plan.created.push(target.to_string()),
    }
    if live.is_none() || !changed.is_empty() {
        plan.bytes += size;
        plan.planned.push(planned);
    }
    Ok(())
}

/// True if a backup of the source, as it is configured now, has this object.
fn is_held(wanted: &Wanted, target: &Name, tools: &Tools<'_, '_>) -> Result<bool, ObjectsError> {
    let Some(held) = &wanted.held else { return Ok(true) };
    let is_kind = match target.kind.as_str() {
        "ConfigMap" => true,
        "Secret" => held.has_secret(&target.name),
        kind => held.kinds.iter().any(|one| match one.group.as_str() {
            "" => one.kind == kind,
            group => format!("{}.{group}", one.kind) == kind,
        }),
    };
    if !is_kind || !held.namespaces.contains(&target.namespace) {
        return Ok(false);
    }
    let resource = match target.kind.as_str() {
        _ if held.labels.is_empty() => return Ok(true),
        "Secret" if !held.secrets => return Ok(true),
        "ConfigMap" => Resource::config_maps(),
        "Secret" => Resource::secrets(),
        _ => return Ok(true),
    };
    let fields = format!("metadata.name={}", target.name);
    let chosen = Chosen { labels: &held.labels, fields: &fields, first: Some(1) };
    let listed = tools.cluster.list_metadata(&resource, &target.namespace, &chosen, Some);
    let listed = tools.runtime.block_on(listed).map_err(|trouble| ObjectsError::cluster(target, trouble))?;
    Ok(!listed.is_empty())
}

/// What was there before one object was applied.
struct Old<'a> {
    planned: &'a Planned,
    /// None: there was nothing.
    was: Option<Value>,
}

/// Carries out `plan` and returns when all of it is live and what uses it is healthy. On an error what is live is
/// as before, but for [`ObjectsError::Half`]. Blocks.
pub(crate) fn restore<E>(
    wanted: &Wanted,
    plan: &Plan,
    entries: impl Iterator<Item = Result<Entry, E>>,
    tools: &mut Tools<'_, '_>,
    progress: &dyn Progress,
) -> Result<Done, ObjectsError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    if plan.planned.is_empty() && plan.same == 0 {
        return Ok(Done::default());
    }
    steps::reach(Step::AllStaged);
    progress.staged().map_err(ObjectsError::NotStopped)?;
    steps::reach(Step::SwapBegun);
    progress.swap_begins();
    let mut olds = Vec::new();
    let applied = apply_all(wanted, plan, entries, tools, progress, &mut olds);
    let cause = match applied {
        Ok(done) => {
            steps::reach(Step::LastSwapped);
            match progress.swapped() {
                Ok(()) => return Ok(done),
                Err(cause) => ObjectsError::TakenBack(cause),
            }
        }
        Err(error) => error,
    };
    let left: Vec<String> = olds.iter().rev().filter_map(|old| take_back(old, tools).err()).collect();
    match left.is_empty() {
        true => Err(cause),
        false => Err(ObjectsError::Half { cause: proto::failure::chain(&cause), left }),
    }
}

fn apply_all<'a, E>(
    wanted: &Wanted,
    plan: &'a Plan,
    entries: impl Iterator<Item = Result<Entry, E>>,
    tools: &mut Tools<'_, '_>,
    progress: &dyn Progress,
    olds: &mut Vec<Old<'a>>,
) -> Result<Done, ObjectsError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    let mut wanting: BTreeMap<&EntryPath, &'a Planned> =
        plan.planned.iter().map(|planned| (&planned.path, planned)).collect();
    let mut done = Done::default();
    for entry in checked(entries) {
        let entry = entry?;
        let EntryKind::File(content) = &entry.kind else { continue };
        let Some(planned) = wanting.remove(&entry.path) else { continue };
        let Some(name) = Name::of_file(&entry.path) else { continue };
        let archived = tools.archived(&entry.path, content, &name)?;
        let is_new = apply(wanted, planned, &archived, tools, olds)?;
        done.objects += 1;
        done.bytes += content.size;
        *(if is_new { &mut done.created } else { &mut done.changed }) += 1;
        progress.entry_written();
        progress.bytes_written(content.size);
        if done.objects == 1 {
            steps::reach(Step::FirstSwapped);
        }
    }
    match wanting.keys().next() {
        None => Ok(done),
        Some(path) => Err(ObjectsError::Damaged(format!("{path} is not in the archive any more"))),
    }
}

/// Applies one object; true if it was made.
fn apply<'a>(
    wanted: &Wanted,
    planned: &'a Planned,
    archived: &Value,
    tools: &Tools<'_, '_>,
    olds: &mut Vec<Old<'a>>,
) -> Result<bool, ObjectsError> {
    let Planned { part, resource, target, .. } = planned;
    let failed = |trouble| ObjectsError::cluster(target, trouble);
    let live = tools.get(resource, target).map_err(failed)?;
    let tidy = live.map(|live| tidied(live, resource));
    let desired = differ::desired(archived, tidy.as_ref(), part, target).map_err(ObjectsError::Refused)?;
    let how = (Change::Apply { force: wanted.force }, false);
    let surplus = tidy.as_ref().map(|tidy| differ::surplus(&desired, tidy, target)).unwrap_or_default();
    let is_new = tidy.is_none();
    // Before it is asked for: an answer that does not come says nothing of what was done.
    olds.push(Old { planned, was: tidy });
    tools.patch((resource, target), how, &desired).map_err(failed)?;
    if !surplus.is_empty() {
        let patch = differ::without(&surplus);
        tools.patch((resource, target), (Change::Merge, false), &patch).map_err(failed)?;
    }
    Ok(is_new)
}

/// Makes one object what it was; an error says which could not be.
fn take_back(old: &Old<'_>, tools: &Tools<'_, '_>) -> Result<(), String> {
    let Planned { resource, target, .. } = old.planned;
    let back = match &old.was {
        // What we applied and do not apply now goes.
        Some(was) => tools.patch((resource, target), (Change::Apply { force: true }, false), was).map(drop),
        // Only what we have made: somebody else may have been first.
        None => tools.get(resource, target).and_then(|live| match live.filter(differ::is_ours) {
            Some(live) => {
                let place = Place { resource, namespace: &target.namespace, name: &target.name };
                tools.runtime.block_on(tools.cluster.delete(&place, text_at(&live, "/metadata/uid")))
            }
            None => Ok(()),
        }),
    };
    back.map_err(|trouble| format!("{target}: {trouble}"))
}
