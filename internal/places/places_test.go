package places

import "testing"

// TestMayTake has users come one after the other. Each takes what he may.
func TestMayTake(t *testing.T) {
	const most = 1000
	taken := 0
	for i, want := range []int{500, 250, 125, 63, 31, 16, 8, 4, 2, 1, 0} {
		his := 0
		for MayTake(taken, most, func() int { return his }) {
			his++
			taken++
		}
		if his != want {
			t.Errorf("user %d has %d places; want %d", i, his, want)
		}
	}
	if taken != most {
		t.Errorf("%d of %d places are taken", taken, most)
	}
}

// TestMayTakeAsks asks for the user only once half of the places are taken.
func TestMayTakeAsks(t *testing.T) {
	for taken := range 11 {
		asked := false
		MayTake(taken, 10, func() int { asked = true; return 0 })
		if want := taken >= 5 && taken < 10; asked != want {
			t.Errorf("%d of 10 are taken: asked %v; want %v", taken, asked, want)
		}
	}
}

func TestGreediest(t *testing.T) {
	for _, tt := range []struct {
		of  map[uint32]int
		uid uint32
		his int
	}{
		{nil, Unknown, 0},
		{map[uint32]int{7: 2, 8: 3}, 8, 3},
		{map[uint32]int{9: 3, 7: 2, 8: 3, Unknown: 3}, 8, 3},
		{map[uint32]int{Unknown: 3}, Unknown, 3},
	} {
		if uid, his := Greediest(tt.of); uid != tt.uid || his != tt.his {
			t.Errorf("of %v: user %d has %d; want user %d with %d", tt.of, uid, his, tt.uid, tt.his)
		}
	}
}

func TestUserName(t *testing.T) {
	if a, b := UserName(1000), UserName(Unknown); a != "user 1000" || b != "a user who is not known" {
		t.Errorf("got %q and %q", a, b)
	}
}
