package avahi

// Limit changes how many objects each connection has at most, and how many connections a session has.
func (l *link) Limit(objects, clients int) { l.maxObjects, l.maxClients = objects, clients }
