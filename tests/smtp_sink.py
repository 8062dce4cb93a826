"""smtp_sink.py PORT OUT CERTIFICATE KEY: a mail server with STARTTLS and a login, user / good-password.

Prints `READY PORT` (0: any); appends a JSON line to OUT for each mail. Ends with its standard input."""

import asyncio, email, email.policy, json, ssl, sys

from aiosmtpd.smtp import SMTP, AuthResult

port, out = int(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[3], sys.argv[4])


class Sink:
    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        parts = {part.get_content_type(): part.get_content() for part in mail.walk() if not part.is_multipart()}
        line = {"to": envelope.rcpt_tos, "tls": session.ssl is not None, "subject": mail["subject"],
                "id": mail["message-id"], "parts": parts}
        out.write(json.dumps(line) + "\n")
        return "250 2.0.0 queued"


def login(server, session, envelope, mechanism, data):
    # `handled=False`: otherwise a wrong password is never answered.
    return AuthResult(success=(data.login, data.password) == (b"user", b"good-password"), handled=False)


async def main():
    loop = asyncio.get_running_loop()
    make = lambda: SMTP(Sink(), hostname="sink.test", tls_context=context, require_starttls=True,
                        authenticator=login, auth_required=True, loop=loop)
    server = await loop.create_server(make, "127.0.0.1", port)
    print("READY", server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(main())
