//! Joining, once, by a token or by the pod's service account, and renewing the certificate before it ends.

use std::path::Path;
use std::time::Duration;

use proto::failure::reason;
use proto::token::JoinToken;
use proto::v1::agent_gateway_client::AgentGatewayClient;
use proto::v1::enrolment_client::EnrolmentClient;
use proto::{Failure, convert, v1};
use repository::pack::seal::SealingPublicKey;
use runtime::config::{Secret, SecretSource};
use runtime::steps;
use tonic::Code;
use tonic::transport::Channel;
use zeroize::Zeroizing;

use super::dial;
use crate::config::AgentConfig;
use crate::state::{
    AgentKey, Identity, IdentityError, PinBroken, RepositoryPin, StateFolder, certificate_pem,
};
use crate::steps::Step;

/// A join or a renewal is answered within this time.
const ANSWER: Duration = Duration::from_secs(30);

/// Joins with the configured token and keeps what the controller gives.
pub(super) async fn join(
    config: &AgentConfig,
    state: &StateFolder,
    key: &AgentKey,
) -> Result<Identity, Failure> {
    let Shown { ca_certificate, token, service_account_token } = match config.join.account_folder() {
        Some(folder) => read_account(folder)?,
        None => {
            let token = read_token(config)?;
            let ca_certificate = certificate_pem(token.ca_certificate());
            Shown { ca_certificate, token: token.to_text(), service_account_token: Zeroizing::default() }
        }
    };
    let endpoint = dial::endpoint(&config.controller, &ca_certificate, None)?;
    let channel = endpoint.connect().await.map_err(|error| dial::unreachable(&config.controller, &error))?;
    let request = v1::JoinRequest {
        token: token.to_string(),
        certificate_request: certificate_request(key)?.into(),
        name: config.name.clone(),
        service_account_token: service_account_token.to_string(),
    };
    let mut call = tonic::Request::new(request);
    call.set_timeout(ANSWER);
    let answer = EnrolmentClient::new(channel).join(call).await.map_err(Failure::from)?.into_inner();
    let identity = identity(&answer)?;
    if identity.ca_certificate != ca_certificate {
        return Err(Failure::new(
            Code::FailedPrecondition,
            reason::CERTIFICATE_REFUSED,
            "the controller answered with another authority than the one that the agent was given to trust",
        )
        .hint(
            "compare the controller's address; then make a new token with `nsctl agent invite`, or with a service \
             account look at the config map that the certificate comes from",
        ));
    }
    steps::reached(Step::JoinAnswered).await;
    identity.save(state).map_err(not_kept)?;
    steps::reached(Step::JoinKept).await;
    tracing::info!(agent = %identity.agent_id, repository = %identity.pin.id, "joined");
    Ok(identity)
}

/// What an agent shows, and by what it knows whom it shows it to.
struct Shown {
    ca_certificate: String,
    /// Empty where the other one is shown.
    token: Zeroizing<String>,
    service_account_token: Zeroizing<String>,
}

/// What the pod of an agent was given. Kubernetes makes the token anew before it ends, so it is read each time.
fn read_account(folder: &Path) -> Result<Shown, Failure> {
    let read = |name: &str, hint: &str| {
        let file = folder.join(name);
        Secret::read_from(&file).map_err(|error| {
            let what = format!("this agent joins by its service account and cannot read {}", file.display());
            Failure::new(Code::FailedPrecondition, reason::UNREACHABLE, what).caused_by(&error).hint(hint)
        })
    };
    let authority = read(
        "ca.crt",
        "the controller puts it into the config map that its `kubernetes.authority` names, and the pod mounts that; \
         after the first start of the controller it may take a minute or two",
    )?;
    let token = read("token", "mount a projected serviceAccountToken with the controller's audience there")?;
    let wrong = || {
        let what = format!("{}/ca.crt holds no certificate", folder.display());
        Failure::new(Code::FailedPrecondition, reason::CERTIFICATE_REFUSED, what)
    };
    let (_, authority) =
        x509_parser::pem::parse_x509_pem(authority.expose().as_bytes()).map_err(|_| wrong())?;
    Ok(Shown {
        ca_certificate: certificate_pem(&authority.contents),
        token: Zeroizing::default(),
        service_account_token: Zeroizing::new(token.expose().to_owned()),
    })
}

fn read_token(config: &AgentConfig) -> Result<JoinToken, Failure> {
    let fail = |what: &str| Failure::new(Code::FailedPrecondition, reason::TOKEN_REFUSED, what);
    const HINT: &str = "make a token with `nsctl agent invite` on the controller and give it to the agent as \
                        `join: { token_file: … }` or NEURASHIELD_JOIN__TOKEN";
    let source = config.join.token().ok_or_else(|| {
        fail("this agent has not joined a controller and has no token to join with").hint(HINT)
    })?;
    if let SecretSource::File(file) = &source {
        warn_if_others_read(file);
    }
    let text = SecretSource::read(&source)
        .map_err(|error| fail("the join token cannot be read").caused_by(&error).hint(HINT))?;
    JoinToken::parse(text.expose())
        .map_err(|error| fail("the join token is wrong").caused_by(&error).hint(HINT))
}

/// A token that others can read lets them join. It is taken all the same: Kubernetes mounts secrets with
/// mode 0644 unless told otherwise.
fn warn_if_others_read(file: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let Ok(found) = std::fs::metadata(file) else { return };
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            file = %file.display(), mode = format!("{mode:04o}"),
            hint = "chmod 600 it; in Kubernetes set `defaultMode: 0400` at the secret's volume",
            "others can read the join token"
        );
    }
}

/// Asks for a new certificate for the same key and keeps it.
pub(super) async fn renew(
    mut gateway: AgentGatewayClient<Channel>,
    state: &StateFolder,
    key: &AgentKey,
    old: &Identity,
) -> Result<Identity, Failure> {
    let request = v1::RenewCertificateRequest { certificate_request: certificate_request(key)?.into() };
    let mut call = tonic::Request::new(request);
    call.set_timeout(ANSWER);
    let answer = gateway.renew_certificate(call).await.map_err(Failure::from)?.into_inner();
    let new = identity(&answer)?;
    old.pin.check(&new.pin).map_err(|broken| pin_broken(&broken))?;
    // The authority stays the one that the join token carried; the old certificate, until the new one is
    // known to work.
    let previous = Some(old.certificate.clone());
    let new = Identity { ca_certificate: old.ca_certificate.clone(), previous, ..new };
    steps::reached(Step::RenewalAnswered).await;
    new.save(state).map_err(not_kept)?;
    steps::reached(Step::RenewalKept).await;
    tracing::info!(ends_after = %new.renew_at(), "the certificate was renewed");
    Ok(new)
}

fn identity(answer: &v1::JoinResponse) -> Result<Identity, Failure> {
    let pin = pin(&answer.repository_id, answer.repository_key.as_ref())?;
    let identity = Identity {
        agent_id: convert::text("agent_id", &answer.agent_id, 200)?,
        certificate: certificate_pem(&answer.certificate),
        ca_certificate: certificate_pem(&answer.ca_certificate),
        previous: None,
        pin,
    };
    if identity.is_sound() {
        Ok(identity)
    } else {
        Err(convert::Invalid::new("certificate", "is not a certificate").into())
    }
}

/// What a message says about the repository.
pub(super) fn pin(id: &[u8], key: Option<&v1::RepositoryKey>) -> Result<RepositoryPin, convert::Invalid> {
    let key = convert::required("repository_key", key)?;
    Ok(RepositoryPin {
        id: convert::id("repository_id", id)?,
        key: SealingPublicKey { epoch: key.epoch, key: convert::array("public_key", &key.public_key)? },
    })
}

/// Nothing is done for a repository that is not the pinned one.
pub(super) fn pin_broken(broken: &PinBroken) -> Failure {
    Failure::new(Code::FailedPrecondition, reason::CERTIFICATE_REFUSED, "this agent refuses to work")
        .caused_by(broken)
        .hint(PinBroken::HINT)
}

fn certificate_request(key: &AgentKey) -> Result<Vec<u8>, Failure> {
    key.certificate_request()
        .map_err(|error| Failure::internal("cannot ask for a certificate").caused_by(&error))
}

fn not_kept(error: IdentityError) -> Failure {
    Failure::new(Code::Internal, reason::STORAGE, "the agent's identity cannot be kept")
        .caused_by(&error)
        .hint("check space and permissions of the agent's state folder")
}
