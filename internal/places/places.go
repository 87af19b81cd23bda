// Package places shares places that can run out on this host among its users.
//
// A user may have another place of a kind while he has fewer of them than are free. So the first
// user can have half of them, the second a quarter, and the next one finds room. Until half of the
// places are taken, that holds for everybody. Root is no exception.
package places

import "fmt"

// Unknown stands for all users whom the kernel does not know.
const Unknown = ^uint32(0)

// UserName returns what a log calls a user.
func UserName(uid uint32) string {
	if uid == Unknown {
		return "a user who is not known"
	}
	return fmt.Sprintf("user %d", uid)
}

// MayTake reports whether somebody who has so many places may have another, where taken of most are
// taken. It calls his only if at least half of them are.
func MayTake(taken, most int, his func() int) bool {
	free := most - taken
	return free > 0 && (taken < free || his() < free)
}

// Greediest returns the user who has most, and how much. Of several it returns the one with the
// lowest number. It returns Unknown and 0 if nobody has anything.
func Greediest(of map[uint32]int) (uid uint32, his int) {
	uid = Unknown
	for u, n := range of {
		if n > his || n == his && u < uid {
			uid, his = u, n
		}
	}
	return uid, his
}
