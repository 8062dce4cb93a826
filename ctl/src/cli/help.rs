//! The examples and notes below each `--help`.

pub(crate) const TOP: &str = "\
Exit codes:
  0 done   1 failed   2 wrong usage   3 done but incomplete   4 damage found
  5 controller or agent not reachable   6 denied   130 interrupted

Start here:
  nsctl demo                 see it work on sample data
  nsctl up                   run controller and agent on this machine
  nsctl backup               make a backup now
  nsctl list                 what there is
  nsctl doctor               what is wrong, and what to do";

pub(crate) const DEMO: &str = "\
Everything happens in a temporary folder, which is removed at the end. Nothing of this machine's \
own data is read or changed.";

pub(crate) const UP: &str = "\
The controller runs in this process, the agent as a child process with an identity of its own and \
no key. Without a file the usual places are used; `nsctl config show` says which.

Examples:
  nsctl up
  nsctl up --config /etc/neurashield/neurashield.yaml";

pub(crate) const BACKUP: &str = "\
Examples:
  nsctl backup
  nsctl backup --components models,configs
  nsctl backup --pin 'before the upgrade to 2.0'
  nsctl backup --detach

Ctrl-C leaves the backup running and says how to come back; a second Ctrl-C cancels it.";

pub(crate) const VERIFY: &str = "\
Examples:
  nsctl verify
  nsctl verify --timestamp 20260101_010000 --components models
  nsctl verify --depth hashed
  nsctl verify --budget 200GiB
  nsctl verify --depth drilled --components blockchain

Leaves with 4 when damage was found, and says what is damaged.";

pub(crate) const RESTORE: &str = "\
Examples:
  nsctl restore --timestamp latest --plan
  nsctl restore --timestamp 20260101_010000 --components models
  nsctl restore --timestamp latest --components configs --path 'etc/app/*.yaml' --yes
  nsctl restore --timestamp latest --components models --to /tmp/models-of-yesterday

The plan is always shown first, and nothing but that plan is carried out; off a terminal --yes is \
needed. In place, what is replaced is backed up before, what uses it is stopped, the data is swapped in \
whole, and what ran is started again; if it does not come up, all of it is taken back.";

pub(crate) const UNDO: &str = "\
Examples:
  nsctl jobs                  names the restores
  nsctl undo 019ac2f4-… --plan
  nsctl undo 019ac2f4-…

It is a restore like any other, with a plan, a safety backup of its own, and a job.";

pub(crate) const RETENTION: &str = "\
What one rule keeps stays. Always kept are what is pinned or in use, the newest complete backups, and \
every backup that no newer verified one replaces: so verify now and then, or nothing is removed.

Examples:
  nsctl retention show
  nsctl retention set --keep-within 30d --keep-monthly 12
  nsctl retention apply --plan
  nsctl retention apply";

pub(crate) const SCHEDULE: &str = "\
Without any configuration `daily` backs up at 01:00 and `check` verifies at 05:00, UTC, and applies \
the rules of retention after that.

Examples:
  nsctl schedule list
  nsctl schedule set hourly --backup '0 * * * *' --components database
  nsctl schedule pause daily
  nsctl schedule run check";

pub(crate) const SCHEDULE_SET: &str = "\
Examples:
  nsctl schedule set daily --backup '30 1 * * *' --time-zone Europe/Paris --jitter 20m
  nsctl schedule set weekly --verify '0 6 * * sun' --depth hashed --no-retention

Setting a schedule never runs it. What the controller's configuration declares is changed there.";

pub(crate) const RETENTION_SET: &str = "\
Example:
  nsctl retention set --keep-last 7 --keep-weekly 8 --keep-yearly 5 --keep-complete 3

Setting rules removes nothing. Rules that the controller's configuration declares are changed there.";

pub(crate) const RETENTION_APPLY: &str = "\
Examples:
  nsctl retention apply --plan
  nsctl retention apply --yes

The plan is always shown first; off a terminal --yes is needed, and where much would go at once \
--approve, too. The space of what was removed is freed after a grace: see `nsctl prune`.";

pub(crate) const PRUNE: &str = "\
What nothing needs is marked first, taken away by a run a day later and deleted a week after that. \
With --now it is deleted at once, unless a running job needs it.

Examples:
  nsctl prune --plan
  nsctl prune --now";

pub(crate) const LS: &str = "\
Examples:
  nsctl ls latest models
  nsctl ls 20260101_010000 configs app -R

Control characters, `\\` and bytes that are no UTF-8 are shown escaped: `\\n`, `\\\\`, `\\u{1b}`, `\\xff`. A path \
can be given to `ls`, `cat` and `restore --path` as it is shown.";

pub(crate) const FIND: &str = "\
Examples:
  nsctl find app.yaml
  nsctl find '*.safetensors' --components models --limit 10
  nsctl find 'etc/**/*.conf' --timestamp latest

A bare name is looked for in every folder, a pattern with a `/` from the component's root on. All backups \
are read, newest first, unless --timestamp or --limit says less. Leaves with 0 where nothing is found, too.";

pub(crate) const DIFF: &str = "\
Examples:
  nsctl diff 20260101_010000 latest
  nsctl diff 20260101_010000 20260102_010000 configs

  +  only in the second        -  only in the first
  M  another kind, size, or target of a link; of a file also another time: its bytes may differ
  U  the same but for mode or owner, or the time of a link
  !  a source that was not compared: it is in one of the two only, or cannot be read

Leaves with 0 whether something differs or not.";

pub(crate) const EXPORT: &str = "\
Examples:
  nsctl export latest models -o models.tar
  nsctl export latest ipfs --format car -o all.car
  nsctl export latest configs -o - | tar -t";

pub(crate) const IMPORT: &str = "\
Examples:
  nsctl import mongodump /var/dumps/2026-11-26 --component database
  nsctl import mongodump --archive /var/dumps/2026-11-26.archive";

pub(crate) const AGENT: &str = "\
Examples:
  nsctl agent invite --name db-1
  nsctl agent invite --reusable --uses 20 --expires 1h --name 'node-*' --sources 'models/*'
  and on the other machine give the token to the agent by a file: `join: { token_file: … }`.";

pub(crate) const ALERT: &str = "\
Sinks are declared in the controller's configuration (`alerts:`).

Examples:
  nsctl alert list
  nsctl alert test ops-mail
  nsctl alert history --limit 200 -o json";

pub(crate) const TOKEN: &str = "\
Each role may do what those before it may:
  viewer     see lists, states and health
  operator   back up, verify, restore, cancel, read what is in a backup
  admin      agents, tokens, the audit log

Examples:
  nsctl token create ci --role operator --expires 30d > token
  NSCTL_TOKEN=$(cat token) nsctl --server https://backup.example.org:8443 list
  nsctl --server https://backup.example.org:8443 --token-file token backup
  nsctl token revoke ci";

pub(crate) const SIGNER: &str = "\
No restore of a validator's folder lets its state go below the height that is known of its key, in whichever source \
it was seen. A height that was stated too high, or a chain that begins anew, is set right by `set`.

Examples:
  nsctl signer list
  nsctl signer set 5F0C...9A 812345 --reason \"height of the network, looked up\"
  nsctl signer set blockchain/chain 0 --reason \"the test chain begins anew\" --yes";

pub(crate) const AUDIT: &str = "\
Examples:
  nsctl audit --since 2d
  nsctl audit --limit 1000 -o json
  nsctl audit --check

`--check` tells where the log ends. Noted elsewhere, that proves later that nothing was cut off.";

pub(crate) const REPOSITORY: &str = "\
Secrets are read from files, never from the command line:
  --key-file, --passphrase-file or --recovery-key-file (or NSCTL_RECOVERY_KEY_FILE);
  on a terminal with none of them, the recovery key is asked for.

Examples:
  nsctl repository list --repository /opt/neurashield/backups
  nsctl repository check latest --repository /mnt/disk --depth opened --recovery-key-file key.txt
  nsctl repository restore --repository /mnt/disk --timestamp latest --to /srv/restored";

pub(crate) const COMPLETIONS: &str = "\
Example:
  nsctl completions bash > ~/.local/share/bash-completion/completions/nsctl";
