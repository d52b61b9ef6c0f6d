"""Results on an object store: DIR is a URL, such as ``s3://bucket/prefix``.

What a local folder has as files a store has as objects of the same names (``names``), written by ``remote`` and read
through ``mirror``; who is at work where says ``lease``. ``objects`` alone talks to the store.

Endpoint, region and credentials are those of the environment (``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_ACCESS_KEY_ID``, …, or the role of the machine), as obstore reads them. The store has to honour conditional
writes (If-None-Match, If-Match). Tested is S3, against a server on loopback; Google's and Azure's go the same way
(gs://, az://) and are not tested.
"""
