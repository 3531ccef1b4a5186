"""Makes a container in Azurite. Use: azure_container.py PORT ACCOUNT KEY CONTAINER"""
import base64
import hashlib
import hmac
import http.client
import sys
from email.utils import formatdate

port, account, key, container = sys.argv[1:]
headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
named = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()))
signed = f"PUT{chr(10) * 12}{named}/{account}/{account}/{container}\nrestype:container"
signature = base64.b64encode(hmac.new(base64.b64decode(key), signed.encode(), hashlib.sha256).digest()).decode()
headers |= {"Authorization": f"SharedKey {account}:{signature}", "Content-Length": "0"}
connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
connection.request("PUT", f"/{account}/{container}?restype=container", headers=headers)
response = connection.getresponse()
sys.exit(0 if response.status == 201 else f"{response.status}: {response.read().decode()}")
