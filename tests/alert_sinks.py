"""alert_sinks.py OUT CERTIFICATE KEY SECRET: an HTTP and an HTTPS server that take alerts.

Prints `READY HTTP-PORT HTTPS-PORT`; appends a JSON line to OUT for each request, before it is answered. The
first word of the path says how: ok; flaky: 500 twice, then 200; limited: 429 once, to be left alone for two
seconds; redirect: to /ok/redirected; hang: no answer to the first request. Ends with its standard input."""

import base64, hashlib, hmac, json, ssl, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

out, certificate, key, secret = open(sys.argv[1], "a", buffering=1), *sys.argv[2:5]
seen, lock = {}, threading.Lock()


class Sink(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        words = self.path.split("?")[0].strip("/").split("/")
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + body
        mac = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
        good = self.headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()
        with lock:
            count = seen[self.path] = seen.get(self.path, 0) + 1
            line = {"path": self.path, "at": time.time(), "id": self.headers["webhook-id"], "signed": good,
                    "extra": self.headers["x-extra"], "body": body.decode()}
            out.write(json.dumps(line) + "\n")
        answer = {"flaky": 500 if count < 3 else 200, "limited": 429 if count < 2 else 200, "redirect": 302}
        if words[0] == "hang" and count < 2:
            time.sleep(600)
        self.send_response(answer.get(words[0], 200))
        if words[0] == "limited":
            self.send_header("retry-after", "2")
        if words[0] == "redirect":
            self.send_header("location", "/ok/redirected")
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


def serve(context):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
print("READY", serve(None), serve(context), flush=True)
sys.stdin.read()
