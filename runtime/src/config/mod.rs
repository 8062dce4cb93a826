//! Configuration: one YAML file, the environment and flags, merged into one typed structure.
//!
//! A program describes its settings as a struct that implements [`Settings`] and calls [`load()`]. Values come
//! from, in rising precedence: defaults, the file, the environment, flags. Every value keeps its
//! [`Origin`], so that an error names file, line and column (or the variable, or the flag) and
//! `config show --origin` can tell where each value came from.
//!
//! **File.** Either the program's own section, or a file with one section per program (`controller:`,
//! `agent:`), of which each program reads its own. Unknown keys, wrong types and duplicates are errors.
//!
//! **Environment.** `NEURASHIELD_` + the path below the program's section, in capitals, `__` between levels:
//! `retention.keep_within` is `NEURASHIELD_RETENTION__KEEP_WITHIN`, `sources[0].path` is
//! `NEURASHIELD_SOURCES__0__PATH`. Lists of texts are comma-separated. Where two programs share one
//! environment the section may come first and wins: `NEURASHIELD_AGENT__STATE`. An empty variable counts as
//! not set. A variable whose first word is no setting is told as a notice and not refused, because
//! platforms put such variables there by themselves (a Kubernetes service called `neurashield` does).
//!
//! **Secrets.** A key `x` that is secret has a sibling `x_file`; setting one of the two in a higher layer
//! removes the other of a lower layer. Files of secrets are read when the secret is used, not here: a one-time
//! token may be gone when the program starts again. No secret shows in `Debug`, errors or `show`.

mod decode;
mod environment;
mod error;
mod load;
mod secret;
mod show;
mod tree;
mod units;

pub use error::{ConfigError, Problem};
pub use load::{Flag, Layers, Loaded, Settings, load};
pub use secret::{Secret, SecretError, SecretSource};
pub use tree::Origin;
pub use units::{Duration, Size};
