"""Every model of the service: to import this is what fills `metadata`.

The migrations compare it with the revisions, and the doctor looks whether the roles may use it.
"""

from service.database import idempotency
from service.product_catalog import models as product_catalog

MODELS = (product_catalog, idempotency)
