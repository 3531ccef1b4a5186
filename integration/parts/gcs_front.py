"""Stands before fake-gcs-server and gives it the XML API.

fake-gcs-server takes writes and listings by the JSON API only; tempo-rs uses the XML API, as object_store does. Whatever is put, copied, listed
or uploaded in parts by XML becomes calls of the JSON API here; reads and deletions, which it knows in both forms, are passed on.
Use: gcs_front.py PORT SERVER_PORT
"""
import http.client
import json
import sys
import threading
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

port, server_port = int(sys.argv[1]), int(sys.argv[2])
upload_numbers, uploads, lock = count(1), {}, threading.Lock()
NOT_FORWARDED = {"connection", "content-length", "keep-alive", "transfer-encoding"}
CODES = {404: "NoSuchKey", 409: "Conflict", 412: "PreconditionFailed"}


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", headers=(), length=None):
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, text=""):
        body = f"<Error><Code>{CODES.get(status, 'Error')}</Code><Message>{escape(text)}</Message></Error>"
        self.answer(status, body.encode(), [("Content-Type", "application/xml")])

    def ask(self, method, path, body=None, headers=None):
        server = http.client.HTTPConnection("127.0.0.1", server_port, timeout=60)
        try:
            server.request(method, path, body, headers or {})
            response = server.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            server.close()

    def generation_condition(self):
        generation = self.headers.get("x-goog-if-generation-match")
        return "" if generation is None else f"ifGenerationMatch={generation}"

    def store(self, bucket, key, body):
        """Writes an object; returns the status and the headers that describe it."""
        path = f"/upload/storage/v1/b/{quote(bucket, '')}/o?uploadType=media&name={quote(key, '')}&{self.generation_condition()}"
        status, _, answer = self.ask("POST", path, body, {"Content-Type": "application/octet-stream"})
        if status != 200:
            return status, answer.decode(errors="replace")
        made = json.loads(answer)
        return 200, [("ETag", '"%s"' % made["etag"].strip('"')), ("x-goog-generation", str(made["generation"]))]

    def handle_request(self):
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        bucket, _, key = (unquote(part) for part in url.path.lstrip("/").partition("/"))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if bucket in ("storage", "upload", "download", "_internal"):
            self.pass_on(body)
        elif self.command == "GET" and not key:
            self.listing(bucket, query)
        elif self.command == "POST" and "uploads" in query:
            with lock:
                number = str(next(upload_numbers))
                uploads[number] = {}
            self.xml("InitiateMultipartUploadResult", f"<UploadId>{number}</UploadId>")
        elif "uploadId" in query:
            self.part(bucket, key, query, body)
        elif self.command == "PUT" and "x-goog-copy-source" in self.headers:
            self.copy(bucket, key)
        elif self.command == "PUT":
            status, made = self.store(bucket, key, body)
            self.answer(200, headers=made) if status == 200 else self.refuse(status, made)
        else:
            self.pass_on(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = handle_request

    def xml(self, name, content, headers=()):
        text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'
        self.answer(200, text.encode(), [("Content-Type", "application/xml"), *headers])

    def pass_on(self, body):
        headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_FORWARDED}
        status, answered, content = self.ask(self.command, self.path, body or None, headers)
        length = next((value for name, value in answered if name.lower() == "content-length"), None)
        kept = [(name, value) for name, value in answered if name.lower() not in NOT_FORWARDED]
        self.answer(status, content, kept, length if self.command == "HEAD" else None)

    def copy(self, bucket, key):
        source_bucket, _, source = unquote(self.headers["x-goog-copy-source"]).lstrip("/").partition("/")
        path = f"/storage/v1/b/{quote(source_bucket, '')}/o/{quote(source, '')}/rewriteTo/b/{quote(bucket, '')}/o/{quote(key, '')}"
        status, _, answer = self.ask("POST", f"{path}?{self.generation_condition()}", b"{}", {"Content-Type": "application/json"})
        if status != 200:
            return self.refuse(status, answer.decode(errors="replace"))
        self.xml("CopyObjectResult", f"<ETag>{escape(json.loads(answer)['resource']['etag'])}</ETag>")

    def part(self, bucket, key, query, body):
        with lock:
            parts = uploads.get(query["uploadId"])
        if parts is None:
            return self.refuse(404, "no such upload")
        if self.command == "PUT":
            parts[int(query["partNumber"])] = body
            return self.answer(200, headers=[("ETag", f'"{md5(body).hexdigest()}"')])
        with lock:
            uploads.pop(query["uploadId"], None)
        if self.command == "DELETE":
            return self.answer(204)
        numbers = [int(part.text) for part in ElementTree.fromstring(body).iter() if part.tag.endswith("PartNumber")]
        status, made = self.store(bucket, key, b"".join(parts[number] for number in numbers))
        if status != 200:
            return self.refuse(status, made)
        self.xml("CompleteMultipartUploadResult", f"<Key>{escape(key)}</Key><ETag>{escape(made[0][1])}</ETag>", made)

    def listing(self, bucket, query):
        names = {"prefix": "prefix", "delimiter": "delimiter", "continuation-token": "pageToken", "start-after": "startOffset"}
        asked = {there: query[here] for here, there in names.items() if query.get(here)}
        asked["maxResults"] = query.get("max-keys", "1000")
        status, _, answer = self.ask("GET", f"/storage/v1/b/{quote(bucket, '')}/o?{urlencode(asked)}")
        if status != 200:
            return self.refuse(status, answer.decode(errors="replace"))
        page = json.loads(answer)
        # startOffset includes the key itself.
        objects = [item for item in page.get("items", []) if item["name"] > query.get("start-after", "")]
        content = "".join(
            f"<Contents><Key>{escape(item['name'])}</Key><LastModified>{item['updated']}</LastModified>"
            f"<ETag>{escape(item['etag'])}</ETag><Size>{item['size']}</Size></Contents>"
            for item in objects
        )
        content += "".join(f"<CommonPrefixes><Prefix>{escape(prefix)}</Prefix></CommonPrefixes>" for prefix in page.get("prefixes", []))
        if page.get("nextPageToken"):
            content += f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(page['nextPageToken'])}</NextContinuationToken>"
        self.xml("ListBucketResult", content)


ThreadingHTTPServer.daemon_threads = True
ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", port), Front).serve_forever()
