"""Where the MTAs of the integration tests deliver: aiosmtpd with this handler, which keeps each message as a file.

    python -m aiosmtpd -n -l HOST:PORT -c sink.Sink FOLDER
"""

import json
import os
import uuid


class Sink:
    @classmethod
    def from_cli(cls, parser, folder):
        sink = cls()
        sink.folder = folder
        return sink

    async def handle_DATA(self, server, session, envelope):
        # Bytes above 127 as Latin-1 has them, so that the message comes back byte for byte.
        message = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "content": envelope.original_content.decode("latin-1"),
        }
        path = os.path.join(self.folder, uuid.uuid4().hex)
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(message, file)
        os.rename(path + ".part", path + ".json")
        return "250 OK"
