"""What the page of a run holds, read back."""

import base64
import json
import zlib


def read_page(content):
    packed = content.rpartition(b'<script id="data" type="text/plain">')[2].partition(b"</script>")[0]
    return json.loads(zlib.decompress(base64.b64decode(packed)))
