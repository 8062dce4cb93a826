//! The cryptographic provider of rustls.

use rustls::crypto::aws_lc_rs;

/// Makes aws-lc the provider of every TLS connection of this process. To be called first thing in `main`;
/// may be repeated.
pub fn install_crypto_provider() {
    // An error only says that a provider is there already, and no other one is linked into our programs.
    let _ = aws_lc_rs::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_provider_is_there_after_installing_it_twice() {
        super::install_crypto_provider();
        super::install_crypto_provider();
        assert!(rustls::crypto::CryptoProvider::get_default().is_some());
    }
}
