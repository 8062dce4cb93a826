//! Random lives of a repository against a model of it: a map from each backup to its files. Backups,
//! verifications, key changes, maintenance and repair in any order, with a storage that fails or a controller
//! that dies at any call, and rot now and then; what is listed and what comes back is compared with the model
//! byte for byte.
//!
//! The gate lives some dozen lives, always the same; `NEURASHIELD_CRASH=long` some thousand, from
//! `NEURASHIELD_FIRST_SEED=…` on. What fails names its seed.

mod story;
mod support;

use std::sync::Arc;

use repository::layout;
use repository::names::BackupName;
use repository::parity::Strength;
use repository::store::faulty::{Effect, Fault, FaultyStore, Operation};
use repository::store::memory::MemoryStore;
use repository::store::{ListedKind, ObjectPath, Store};
use story::{Answer, Fate, Pace, Step, World, survives};
use support::*;

const STEPS: usize = 16;
const NAMES: [&str; 8] = ["a", "b", "c/d", "c/e", "f", "g", "h/i/j", "k"];

fn second_of(name: &BackupName) -> i64 {
    name.time().as_second() - at(0).as_second()
}

struct Life {
    dice: Dice,
    disk: FaultyStore<MemoryStore>,
    world: World,
    files: Files,
    second: i64,
    /// Something rotted and was not repaired yet: until then nothing is promised.
    is_rotten: bool,
}

impl Life {
    fn new(seed: u64) -> Self {
        let disk = FaultyStore::new(MemoryStore::new());
        // Every other life has parity, and so may lose bytes of its packs too.
        let parity = if seed.is_multiple_of(2) { Strength::percent(20) } else { None };
        let mut world = World::default();
        world.parity = parity;
        Self { dice: Dice::new(seed), disk, world, files: Files::new(), second: 0, is_rotten: false }
    }

    fn take(&mut self, step: &Step) -> Answer<()> {
        let disk = self.disk.clone();
        let storage = || Ok(Arc::new(disk.clone()) as Arc<dyn Store>);
        self.world.take(&storage, step, &mut |_| {})
    }

    fn next_step(&mut self) -> Step {
        if !self.world.runs() {
            return Step::Start;
        }
        if self.is_rotten {
            return Step::Repair;
        }
        match self.dice.below(27) {
            0 => Step::AddRecoveryKey,
            1 if !self.world.told.recovery_keys.is_empty() => Step::Confirm,
            2 => Step::RebuildIndex,
            3 => Step::RenewLease,
            4 => Step::Stop,
            5..7 if self.world.has_complete() => Step::Doubt,
            7..10 if self.world.has_complete() => Step::Verify,
            10..12 => self.retire(),
            12 => Step::Prune(Pace::AtOnce),
            13 | 14 => Step::Prune(Pace::InStages),
            15 => Step::Repair,
            16 | 17 => self.rot(),
            _ => self.back_up(),
        }
    }

    /// A backup goes, or the one whose retirement was cut off.
    fn retire(&mut self) -> Step {
        let backups = self.world.told.backups.iter();
        let leaving = backups.filter(|(_, (_, fate))| matches!(fate, Fate::Complete | Fate::Leaving));
        let leaving: Vec<i64> = leaving.map(|(name, _)| second_of(name)).collect();
        if leaving.len() < 2 {
            return self.back_up();
        }
        Step::Retire(leaving[self.dice.below(leaving.len())])
    }

    /// The next night, or the attempt of one that was cut off.
    fn back_up(&mut self) -> Step {
        let begun = self.world.told.backups.iter().find(|(_, (_, fate))| *fate == Fate::Begun);
        if let Some((name, (files, _))) = begun
            && self.dice.below(2) == 0
        {
            return Step::BackUp(second_of(name), (**files).clone());
        }
        for _ in 0..self.dice.below(4) {
            let name = NAMES[self.dice.below(NAMES.len())];
            if self.dice.below(3) == 0 {
                self.files.remove(name);
            } else {
                let length = 1 + self.dice.below(3_000);
                self.files.insert(name, noise(&format!("{name}{}", self.dice.below(4)), length));
            }
        }
        self.second += 60;
        Step::BackUp(self.second, self.files.clone())
    }

    /// A byte of something changes that can be made good: of a pack with parity, of an index file, of one
    /// copy of the keys.
    fn rot(&mut self) -> Step {
        let disk = self.disk.inner();
        let objects = |folder: &ObjectPath| {
            let listed = disk.list(Some(folder)).expect("listed").into_iter();
            listed.map(|listed| (folder.join(&listed.name), listed.kind)).collect::<Vec<_>>()
        };
        let folders = |folder: ObjectPath| {
            objects(&folder).into_iter().flat_map(|(path, _)| objects(&path)).collect::<Vec<_>>()
        };
        let is_mendable = |path: &ObjectPath| {
            let parity = disk.read(&ObjectPath::new(format!("{}.par", path.as_str())), 1 << 30);
            parity.is_ok_and(|parity| is_whole(&parity))
        };
        let mut may_rot = match self.dice.below(3) {
            0 => folders(layout::indexes()),
            1 => vec![(layout::keyring(1), ListedKind::Object { size: 1 })],
            _ => folders(layout::packs()).into_iter().filter(|(path, _)| is_mendable(path)).collect(),
        };
        may_rot.retain(|(_, kind)| matches!(kind, ListedKind::Object { .. }));
        if !may_rot.is_empty() {
            let path = &may_rot[self.dice.below(may_rot.len())].0;
            let mut bytes = disk.read(path, 1 << 30).expect("read");
            let at = self.dice.below(bytes.len());
            bytes[at] ^= 1 + self.dice.below(255) as u8;
            disk.replace(path, &bytes).expect("damaged");
            self.is_rotten = true;
        }
        Step::Repair
    }

    fn order_a_fault(&mut self) {
        let nth = 1 + self.dice.below(60) as u64;
        let kinds = [Operation::Write, Operation::Finish];
        let fault = match self.dice.below(6) {
            0 => Fault::crash_at(nth),
            1 => Fault::new(Effect::AnswerLost).nth(nth).and_all_later(),
            2 => Fault::new(Effect::Refused).nth(nth),
            3 => Fault::new(Effect::AnswerLost).nth(nth),
            4 => Fault::new(Effect::Full).nth(nth).and_all_later(),
            _ => Fault::new(Effect::Torn).on(kinds[self.dice.below(2)]).nth(1 + nth / 8).and_all_later(),
        };
        self.disk.fail(fault);
    }

    fn live(&mut self) -> Result<(), String> {
        let mut lived = Vec::new();
        for _ in 0..STEPS {
            let step = self.next_step();
            let is_faulty = self.dice.below(2) == 0;
            if is_faulty {
                self.order_a_fault();
            }
            let answer = self.take(&step);
            let failed = is_faulty && self.disk.unfired() == 0;
            self.disk.heal();
            let rotten = if self.is_rotten { "rot, " } else { "" };
            lived.push(format!(
                "{rotten}{}{}",
                step.in_short(),
                if failed { " (on a failing store)" } else { "" }
            ));
            self.go_on(&step, answer, failed)
                .map_err(|wrong| format!("{wrong}, after {}", lived.join(", ")))?;
        }
        while self.is_rotten {
            let step = self.next_step();
            let answer = self.take(&step);
            lived.push(step.in_short());
            self.go_on(&step, answer, false)
                .map_err(|wrong| format!("{wrong}, after {}", lived.join(", ")))?;
        }
        let disk = self.disk.inner().clone();
        let storage = || Ok(Arc::new(disk.clone()) as Arc<dyn Store>);
        survives(&storage, &self.world.told).map_err(|wrong| format!("{wrong}, after {}", lived.join(", ")))
    }

    /// After an error the controller dies, or the step is taken again.
    fn go_on(&mut self, step: &Step, answer: Answer<()>, failed: bool) -> Result<(), String> {
        let mut is_done = answer.is_ok();
        if let Err(error) = answer {
            if !failed {
                return Err(format!("on a sound store: {error}"));
            }
            if self.dice.below(2) == 0 {
                self.world.dies();
                self.take(&Step::Start).map_err(|error| format!("the next start fails: {error}"))?;
            } else if self.world.runs() || *step == Step::Start {
                self.take(step).map_err(|error| format!("the same step fails again: {error}"))?;
                is_done = true;
            }
        }
        self.is_rotten &= !(is_done && *step == Step::Repair);
        if self.is_rotten { Ok(()) } else { self.world.check() }
    }
}

/// A parity file is there to its end: it begins and ends with the same head.
fn is_whole(parity: &[u8]) -> bool {
    let Some((rest, length)) = parity.split_last_chunk::<4>() else { return false };
    let length = u32::from_le_bytes(*length) as usize;
    length > 0 && length <= rest.len() && rest[..length] == rest[rest.len() - length..]
}

#[test]
fn a_repository_stays_equal_to_its_model_whatever_happens_to_it() {
    let is_long = std::env::var("NEURASHIELD_CRASH").is_ok_and(|form| form == "long");
    let first = std::env::var("NEURASHIELD_FIRST_SEED").map_or(1, |seed| seed.parse().expect("a number"));
    let count: u64 = if is_long { 3_000 } else { 40 };
    println!("lives with the seeds {first} to {}", first + count - 1);
    let wrong = (first..first + count)
        .filter_map(|seed| Life::new(seed).live().err().map(|wrong| format!("seed {seed}: {wrong}")));
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{} lives went wrong:\n{}", wrong.len(), wrong.join("\n"));
}
