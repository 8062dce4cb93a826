//! People who sign in to the web page by name and password.
//!
//! Must stay true: a password is compared in constant time and is never logged; where a name has none, or too
//! short a one, nobody gets in by it; a wrong name and a wrong password look the same.

use aws_lc_rs::{constant_time, digest};
use runtime::config::{Secret, SecretSource};

use crate::identity::Role;

/// Fewer letters than this are no password.
pub const SHORTEST_PASSWORD: usize = 12;

/// Somebody who may sign in.
#[derive(Debug, Clone)]
pub struct User {
    /// By this name.
    pub name: String,
    /// To do this.
    pub role: Role,
    /// With what is there at that moment: a changed file counts at once.
    pub password: SecretSource,
}

/// All of them.
#[derive(Debug, Clone, Default)]
pub struct Users(Vec<User>);

impl Users {
    /// These and nobody else.
    pub fn new(users: Vec<User>) -> Self {
        Self(users)
    }

    /// True if nobody can sign in so.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who it is that has this name and this password. Reads a file: not for a thread that must not wait.
    pub fn find(&self, name: &str, password: &str) -> Option<&User> {
        let given = sha256(password);
        // For a name that is not there another one's password is read, so that both take their time.
        let user = self.0.iter().find(|user| user.name == name).or(self.0.first())?;
        let known = user
            .known()
            .map_err(|why| {
                tracing::error!(user = user.name, why, "nobody can sign in to the web page by this name")
            })
            .ok()?;
        let is_right = constant_time::verify_slices_are_equal(&given, &sha256(known.expose())).is_ok();
        (is_right && user.name == name).then_some(user)
    }

    /// Says whose password does not count, and why.
    pub fn tell_what_does_not_count(&self) {
        for user in &self.0 {
            if let Err(why) = user.known() {
                tracing::error!(user = user.name, why, "nobody can sign in to the web page by this name");
            }
        }
    }

    /// True if somebody has this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|user| user.name == name)
    }
}

impl User {
    fn known(&self) -> Result<Secret, String> {
        let known = self.password.read().map_err(|error| proto::failure::chain(&error))?;
        match known.expose().chars().count() >= SHORTEST_PASSWORD {
            true => Ok(known),
            false => Err(format!("its password has fewer than {SHORTEST_PASSWORD} letters")),
        }
    }
}

fn sha256(text: &str) -> [u8; 32] {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, password: &str) -> User {
        let password = SecretSource::Value(Secret::new(password));
        User { name: name.to_owned(), role: Role::Operator, password }
    }

    #[test]
    fn name_and_password_have_to_be_those_of_one_user() {
        let users = Users::new(vec![user("kim", "correct horse 1"), user("lee", "correct horse 2")]);
        let found = |name, password| users.find(name, password).map(|user| user.name.as_str());
        assert_eq!(found("kim", "correct horse 1"), Some("kim"));
        for (name, password) in [
            ("kim", "correct horse 2"),
            ("lee", "correct horse 1"),
            ("kim", ""),
            ("", "correct horse 1"),
            ("Kim", "correct horse 1"),
            ("kim", "correct horse 1 "),
        ] {
            assert_eq!(found(name, password), None, "{name:?} {password:?}");
        }
    }

    #[test]
    fn a_password_in_a_file_counts_as_it_is_now_and_a_short_or_missing_one_lets_nobody_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        let password = SecretSource::File(file.clone());
        let users = Users::new(vec![User { name: "kim".to_owned(), role: Role::Viewer, password }]);
        assert!(users.find("kim", "").is_none(), "there is no file");
        for (text, is_one) in [("correct horse 1\n", true), ("correct horse 2", true), ("short", false)] {
            std::fs::write(&file, text).expect("written");
            assert_eq!(users.find("kim", text.trim()).is_some(), is_one, "{text}");
            assert!(users.find("kim", "correct horse 3").is_none());
        }
    }
}
