//! Which controller, and who asks: the Unix socket, or https with a token.
//!
//! Must stay true: a token goes nowhere but to a controller whose certificate is of the authority that the
//! token, or `--ca-file`, names; it is shown in no error and stands in no process's arguments for longer
//! than it takes to start anew.

use std::convert::Infallible;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use proto::api_token::ApiToken;
use zeroize::Zeroizing;

use crate::cli::Global;
use crate::output;
use crate::output::exit::{Exit, Trouble};

/// Longer than any token or certificate file of ours.
const MAX_FILE: u64 = 64 << 10;

/// A text that is not shown.
#[derive(Clone)]
pub(crate) struct Hidden(Zeroizing<String>);

impl FromStr for Hidden {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(Zeroizing::new(text.to_owned())))
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hidden(..)")
    }
}

/// Where a controller is and what it is shown.
#[derive(Debug)]
pub(crate) enum Access {
    /// A Unix socket, which knows its user.
    Socket {
        /// Its absolute path.
        path: String,
    },
    /// TLS.
    Https {
        /// `https://host:port`.
        url: String,
        /// Who asks; nobody asks whether the controller is ready.
        token: Option<ApiToken>,
        /// The certificate of the controller's authority, PEM.
        authority: String,
    },
}

impl Access {
    /// What the command line and the environment say.
    pub(crate) fn of(global: &Global) -> Result<Self, Trouble> {
        let server = global.server.as_str();
        if server.starts_with("http:") {
            return Err(Trouble::usage(format!("cannot connect to {server}"))
                .because("without TLS everybody on the way could read the token")
                .hint("write https://"));
        }
        if !server.starts_with("https:") {
            return Self::socket(server);
        }
        let token = token(global)?;
        let authority = match (&global.ca_file, token.ca_certificate()) {
            (Some(file), _) => read(file)?.to_string(),
            (None, Some(der)) => pem::encode(&pem::Pem::new("CERTIFICATE", der)),
            (None, None) => {
                return Err(Trouble::usage("it is not known whose certificate the controller must show")
                    .because("this token does not carry the certificate of the controller's authority")
                    .hint("use the whole token, or give the certificate by --ca-file: `ca.crt` in the controller's state folder"));
            }
        };
        Ok(Self::Https { url: server.to_owned(), token: Some(token), authority })
    }

    /// The same for a question that needs no token, where the certificate of the controller's authority is given.
    pub(crate) fn without_token(global: &Global) -> Result<Self, Trouble> {
        match &global.ca_file {
            Some(file) if global.server.starts_with("https:") => {
                let authority = read(file)?.to_string();
                Ok(Self::Https { url: global.server.clone(), token: None, authority })
            }
            _ => Self::of(global),
        }
    }

    /// The Unix socket at `server`, e.g. `unix:///run/neurashield/controller.sock`.
    pub(crate) fn socket(server: &str) -> Result<Self, Trouble> {
        let path = server.strip_prefix("unix://").or_else(|| server.strip_prefix("unix:")).unwrap_or(server);
        if !path.starts_with('/') {
            return Err(Trouble::usage(format!("{server} is no address of a controller"))
                .hint("give unix:// and the absolute path of a socket, or https://HOST:8443 and a token"));
        }
        Ok(Self::Socket { path: path.to_owned() })
    }
}

fn token(global: &Global) -> Result<ApiToken, Trouble> {
    let text = match (&global.token_file, &global.token) {
        (Some(file), _) => read(file)?,
        (None, Some(token)) => token.0.clone(),
        (None, None) => {
            return Err(Trouble::new(Exit::Denied, "a controller that is not on this machine wants a token")
                .because("there is none")
                .hint(
                    "give it by NSCTL_TOKEN or --token-file; an admin makes one with `nsctl token create`",
                ));
        }
    };
    ApiToken::parse(&text).map_err(|_| {
        Trouble::new(Exit::Denied, "the token cannot be used")
            .because("it is not an API token, or not the whole of one")
            .hint("it begins with nstok1- and is one line; an admin makes one with `nsctl token create`")
    })
}

fn read(file: &Path) -> Result<Zeroizing<String>, Trouble> {
    let mut text = Zeroizing::new(String::new());
    let read = File::open(file).and_then(|file| file.take(MAX_FILE).read_to_string(&mut text));
    read.map_err(|error| Trouble::usage(format!("cannot read {}", file.display())).caused_by(&error))?;
    Ok(text)
}

/// Everybody on this machine sees the arguments of a process, and only its user its environment: with
/// `--token` this program starts anew, the token in its environment.
pub(crate) fn hide_token(words: &[OsString]) -> Result<(), Trouble> {
    let Some((rest, token)) = without_token(words) else { return Ok(()) };
    output::warn(
        "warning: everybody on this machine could see the token in the arguments of nsctl for a moment;\n\
         \x20 give it by NSCTL_TOKEN or --token-file",
    );
    let name = words.first().map_or(OsStr::new("nsctl"), OsString::as_os_str);
    let error = Command::new("/proc/self/exe")
        .arg0(name)
        .args(rest)
        .env("NSCTL_TOKEN", token)
        .env_remove("NSCTL_TOKEN_FILE")
        .exec();
    Err(Trouble::failed("cannot hide the token").caused_by(&error).hint("give it by NSCTL_TOKEN"))
}

/// The arguments without `--token`, and its value; `None` where it is not among them.
fn without_token(words: &[OsString]) -> Option<(Vec<&OsString>, &OsStr)> {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let value = |word: &'_ OsString| word.as_bytes().starts_with(b"--token=");
    let at = words[..end].iter().position(|word| word == "--token" || value(word))?;
    let (token, last) = match words[at] == "--token" {
        true => (words.get(at + 1)?.as_os_str(), at + 1),
        false => (OsStr::from_bytes(&words[at].as_bytes()["--token=".len()..]), at),
    };
    Some((words[1..at].iter().chain(&words[last + 1..]).collect(), token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn global(server: &str, token: Option<&str>) -> Global {
        let token = token.map(|text| text.parse().expect("any text"));
        Global {
            server: server.to_owned(),
            token,
            token_file: None,
            ca_file: None,
            quiet: false,
            verbose: false,
        }
    }

    #[test]
    fn a_socket_has_an_absolute_path() {
        for right in ["unix:///run/x.sock", "unix:/run/x.sock", "/run/x.sock"] {
            let access = Access::of(&global(right, None)).expect("a socket");
            assert!(matches!(access, Access::Socket { path } if path == "/run/x.sock"));
        }
        for wrong in ["http://backup.example.org:8443", "unix://x.sock", "x.sock", ""] {
            assert_eq!(Access::of(&global(wrong, None)).expect_err(wrong).exit, Exit::Usage);
        }
    }

    #[test]
    fn https_wants_a_whole_token_and_never_repeats_it() {
        let url = "https://backup.example.org:8443";
        assert_eq!(Access::of(&global(url, None)).expect_err("none").exit, Exit::Denied);
        let cut = Access::of(&global(url, Some("nstok1-0123456789"))).expect_err("cut short");
        assert!(cut.exit == Exit::Denied && !format!("{cut:?}").contains("0123456789"));
        let whole = ApiToken::new([1; 16], [0xab; 32], Some(vec![0x30, 0])).to_text();
        let access = Access::of(&global(url, Some(&whole))).expect("a token");
        assert!(!format!("{access:?}").contains("abab"));
        let short = ApiToken::new([1; 16], [0xab; 32], None).to_text();
        let missing = Access::of(&global(url, Some(&short))).expect_err("no authority");
        assert!(missing.hint.contains("--ca-file"), "{missing}");
    }

    #[test]
    fn a_token_among_the_arguments_is_taken_out() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        for text in ["nsctl --token x list", "nsctl list --token x", "nsctl --token=x list"] {
            let words = words(text);
            let (rest, token) = without_token(&words).expect("there");
            assert_eq!((rest, token), (vec![&OsString::from("list")], OsStr::new("x")), "{text}");
        }
        for text in ["nsctl list", "nsctl cat latest configs -- --token x", "nsctl token list"] {
            assert!(without_token(&words(text)).is_none(), "{text}");
        }
    }
}
